"""How near a target in time is met: the share of the dense network's time that is asked for, found, and left in the exported file.

    python benchmarks/latency_target.py resnet20_cifar10 CHECKPOINT [--targets 0.6 0.4] [--set KEY=VALUE ...] [-o FOLDER]

Each target is one `edcompress prune` with `target.latency`, exported afterwards, which measures both files anew in other processes.
Appends a line per target to benchmarks/latency_target.jsonl and rewrites docs/latency-target.md from all of them. `--table` only writes
the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOG = HERE / "latency_target.jsonl"
PAGE = HERE.parent / "docs" / "latency-target.md"
HEAD = """# Targets in time

Written by `benchmarks/latency_target.py` from `benchmarks/latency_target.jsonl`. Shares of the dense network's median onnxruntime time at
batch 1 on one pinned thread. `predicted` is of the layers' times, for the network that was taken; `found` was measured before the
fine-tuning, as often as `measured` says (the widths are corrected between); `exported` is pruned.onnx beside dense.onnx afterwards, with
the 95 % interval, and `off` how far that is from what was asked for. `waited`: see [how latency is measured](benchmark.md).
With the short training named below it is about time alone; accuracy is not asked for.

| recipe | asked for | predicted | found | measured | exported | off | MACs left | waited |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Measure and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.6, 0.4])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"))
    parser.add_argument("--table", action="store_true", help="only rewrite docs/latency-target.md")
    options = parser.parse_args()
    if not options.table:
        if options.recipe is None or options.checkpoint is None:
            parser.error("give a recipe and a checkpoint, or --table")
        for target in options.targets:
            line = measure(options.recipe, options.checkpoint, target, options.overrides, options.output)
            with LOG.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(row(line), flush=True)
    PAGE.write_text(page([json.loads(line) for line in LOG.read_text().splitlines()]))


def measure(recipe: str, checkpoint: Path, target: float, overrides: list[str], output: Path) -> dict[str, Any]:
    """The line of one target."""
    folder = output / f"{recipe}-latency{target:g}"
    settings = ["target.macs=null", f"target.latency={target:g}", *overrides]
    extra = [part for setting in settings for part in ("--set", setting)]
    edcompress("prune", str(checkpoint), "--recipe", recipe, "-o", str(folder), *extra)
    edcompress("export", str(folder), "--onnx")
    report = json.loads((folder / "report.json").read_text())
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    dense, pruned = (report[name] for name in ("dense", "pruned"))
    return {
        "recipe": recipe, "seed": report["seed"], "overrides": overrides, "target": report["target"],
        "measured": sum("asked for" in event.get("stage", "") for event in events),
        "speedup": pruned["latency_ms"]["speedup"], "waited": pruned["latency_ms"]["waited"],
        "macs": pruned["size"]["macs"] / dense["size"]["macs"], "p50_ms": [one["latency_ms"]["p50"] for one in (dense, pruned)],
        "machine": report["machine"]["processor"], "versions": report["versions"], "date": date.today().isoformat(),
    }  # fmt: skip


def edcompress(*arguments: str) -> None:
    """Run a command that must succeed."""
    subprocess.run([sys.executable, "-m", "edcompress", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def page(lines: list[dict[str, Any]]) -> str:
    """docs/latency-target.md."""
    feet = dict.fromkeys(
        f"\n{one['recipe']} with `{' '.join(one['overrides'])}`: {one['machine']}, torch {one['versions']['torch']}, onnxruntime "
        f"{one['versions']['onnxruntime']}, seed {one['seed']}; {one['date']}.\n"
        for one in lines
    )
    return HEAD + "".join(row(line) + "\n" for line in lines) + "".join(feet)


def row(line: dict[str, Any]) -> str:
    """A row of the table."""
    target, speedup = line["target"], line["speedup"]
    share, low, high = (1 / speedup[key] for key in ("estimate", "high", "low"))
    waited = "unknown" if line["waited"] is None else f"{line['waited']:.2%}"
    cells = (
        line["recipe"], f"{target['asked']:.1%}", f"{target['predicted']:.1%}", f"{target['achieved']:.1%}", str(line["measured"]),
        f"{share:.1%} ({low:.1%} to {high:.1%})", f"{share / target['asked'] - 1:+.1%}", f"{line['macs']:.1%}", waited)  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
