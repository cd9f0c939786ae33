"""How closely a latency target is met: the share of the dense network's time that is asked for, found, and left in the exported file.

    python benchmarks/latency_target.py resnet20_cifar10 WEIGHTS [--targets 0.6 0.4] [--set KEY=VALUE ...] [-o FOLDER]

Each target is one `edcompress prune` with `target.latency`, exported afterwards, which measures both files again in new processes.
Appends a line per target to benchmarks/latency_target.jsonl and rewrites docs/latency-target.md from all lines. `--table` only writes
the page.
"""

from __future__ import annotations

import json
from pathlib import Path

import harness
from harness import DOCS, HERE, Line

LOG = HERE / "latency_target.jsonl"
PAGE = DOCS / "latency-target.md"
HEAD = """# Targets in time

Written by `benchmarks/latency_target.py` from `benchmarks/latency_target.jsonl`. Shares of the dense network's median onnxruntime time at
batch 1 on one pinned thread. `predicted` is the sum of the layers' times, for the chosen network; `found` was measured before fine-tuning,
`measured` times, with the widths corrected in between; `exported` is pruned.onnx against dense.onnx afterwards, with the 95 % interval,
and `off` is its distance from the target. `waited`: see [how latency is measured](benchmark.md). The training named below is short: this
page is about time, not accuracy.

"""
COLUMNS = ("recipe", "asked for", "predicted", "found", "measured", "exported", "off", "MACs left", "waited")


def main() -> None:
    """Measure and rewrite the page."""
    parser = harness.new_parser(__doc__)
    harness.add_recipe(parser)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.6, 0.4])
    harness.add_output(parser, "runs")
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        harness.require_run(parser, options)
        for target in options.targets:
            line = measure(options.recipe, options.weights, target, options.overrides, options.output)
            harness.append_line(LOG, line)
            print(table_row(line), flush=True)
    harness.write_page(PAGE, page(harness.read_lines(LOG)))


def measure(recipe: str, weights: Path, target: float, overrides: list[str], output: Path) -> Line:
    """Prune to one target, export, and return the line."""
    folder = output / f"{recipe}-latency{target:g}"
    words = harness.settings(["target.macs=null", f"target.latency={target:g}", *overrides])
    harness.edcompress("prune", weights, "--recipe", recipe, "-o", folder, *words)
    harness.edcompress("export", folder, "--onnx")
    report = json.loads((folder / "report.json").read_text())
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    dense, pruned = (report[name] for name in ("dense", "pruned"))
    return {
        "recipe": recipe, "seed": report["seed"], "overrides": overrides, "target": report["target"],
        "measured": sum("asked for" in event.get("stage", "") for event in events),
        "speedup": pruned["latency_ms"]["speedup"], "waited": pruned["latency_ms"]["waited"],
        "macs": pruned["size"]["macs"] / dense["size"]["macs"], "p50_ms": [one["latency_ms"]["p50"] for one in (dense, pruned)],
        "machine": report["machine"]["processor"], "versions": report["versions"], "date": harness.today(),
    }  # fmt: skip


def page(lines: list[Line]) -> str:
    """Return docs/latency-target.md."""
    feet = dict.fromkeys(
        f"\n{one['recipe']} with `{' '.join(one['overrides'])}`: {one['machine']}, torch {one['versions']['torch']}, onnxruntime "
        f"{one['versions']['onnxruntime']}, seed {one['seed']}; {one['date']}.\n"
        for one in lines
    )
    return HEAD + "\n".join(harness.table(COLUMNS, map(table_row, lines))) + "\n" + "".join(feet)


def table_row(line: Line) -> str:
    """Return the row of one target."""
    target, speedup = line["target"], line["speedup"]
    share, low, high = (1 / speedup[key] for key in ("estimate", "high", "low"))
    waited = "unknown" if line["waited"] is None else f"{line['waited']:.2%}"
    return harness.row((
        line["recipe"], f"{target['asked']:.1%}", f"{target['predicted']:.1%}", f"{target['achieved']:.1%}", str(line["measured"]),
        f"{share:.1%} ({low:.1%} to {high:.1%})", f"{share / target['asked'] - 1:+.1%}", f"{line['macs']:.1%}", waited,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
