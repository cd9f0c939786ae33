"""The arguments and options that commands share, by what they mean. A limit of the gate says what the recipe's key says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edcompress.core.recipe.deployment import MAX_OPSET, MIN_OPSET, Gate

RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe key: section.key=value. Repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the recipe's model.factory from the working directory.")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickled whole module; this can run any code in it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Start over: replace the files of an earlier run.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file where it exists.")]
Trained = Annotated[Path, typer.Option("--output", "-o", metavar="CHECKPOINT", help="The .safetensors file to write.")]
Converted = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Default: pruned.pt2 or pruned.torchscript.pt in the run, or NAME.safetensors here.",
    ),
]
Log = Annotated[
    list[str] | None, typer.Option("--log", help="tensorboard or mlflow: each epoch's figures there too. Repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
RunPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run folder; default: the newest under ./runs.")
]
RunOrReport = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run folder or a report.json; default: newest run.")
]
Weights = Annotated[
    Path,
    typer.Argument(help="Weights: .pt, .pth, .th or .safetensors; or a finished run, which is then pruned further."),
]
OptionalWeights = Annotated[Path | None, typer.Argument(help="Weights; default: train the recipe's network first.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="RUN", help="Run folder; default: runs/NAME.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from where this run was saved last.")]


def _limit(key: str) -> Any:
    """The option of a limit of the gate, which says what the recipe's key says."""
    return typer.Option(f"--{key.replace('_', '-')}", help=Gate.model_fields[key].description)


Top1 = Annotated[float | None, _limit("min_top1")]
Drop = Annotated[float | None, _limit("max_top1_drop")]
Drop5 = Annotated[float | None, _limit("max_top5_drop")]
ClassDrop = Annotated[float | None, _limit("max_class_drop")]
Agreement = Annotated[float | None, _limit("min_agreement")]
Speedup = Annotated[float | None, _limit("min_speedup")]
LatencyMs = Annotated[float | None, _limit("max_latency_ms")]
SizeRatio = Annotated[float | None, _limit("max_size_ratio")]
SizeBytes = Annotated[int | None, _limit("max_size_bytes")]
Parity = Annotated[float | None, _limit("max_parity")]
Confidence = Annotated[str | None, _limit("confidence")]
Level = Annotated[float | None, _limit("level")]
Disturbed = Annotated[str | None, _limit("disturbed")]
AllowWeakDense = Annotated[bool | None, _limit("allow_weak_dense")]
Unheld = Annotated[bool | None, _limit("allow_unheld")]
Top1Regression = Annotated[float | None, _limit("max_top1_regression")]
LatencyRegression = Annotated[float | None, _limit("max_latency_regression")]
SizeRegression = Annotated[float | None, _limit("max_size_regression")]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", metavar="RUN", help="A run folder or report.json to compare with: main's.")
]
JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE.xml", help="Write (or replace) a JUnit file, a test per limit.")
]
IgnoreMetadata = Annotated[
    bool, typer.Option("--ignore-metadata", help="Go on where the file says it is for other classes or preprocessing.")
]
OnnxFlag = Annotated[bool, typer.Option("--onnx", help="Write ONNX files (the one format so far).")]
Opset = Annotated[
    int | None, typer.Option("--opset", help=f"ONNX opset, {MIN_OPSET} to {MAX_OPSET}; default: the recipe's.")
]

Batch = Annotated[
    str | None, typer.Option("--batch", metavar="dynamic|N", help="Images per call; default: the recipe's.")
]
Half = Annotated[bool | None, typer.Option("--fp16/--no-fp16", help="pruned.fp16.onnx too.")]
Int8 = Annotated[
    bool | None, typer.Option("--int8/--no-int8", help="pruned.int8.onnx too, calibrated on the search split.")
]
Pixels = Annotated[
    bool | None,
    typer.Option("--with-preprocessing/--no-preprocessing", help="pruned.pixels.onnx too, which takes uint8 pixels."),
]
