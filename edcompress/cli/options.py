"""The arguments and options of all commands, by meaning. An option of a gate key has the help text of the recipe's key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from edcompress.core.recipe.deployment import MAX_OPSET, MIN_OPSET
from edcompress.core.recipe.gate import Gate
from edcompress.core.registry import names_in
from edcompress.report.gate.limit_registry import REGRESSION_LIMITS
from edcompress.runs.tracking import TRACKERS

# What a command works on
Weights = Annotated[
    str,
    typer.Argument(
        help="Weights: .pt, .pth, .th or .safetensors; a finished run, which is then pruned further; or a name: "
        "torchvision:NETWORK@WEIGHTS, timm:NETWORK.TAG, hf:OWNER/NAME, https://...#sha256=HEX."
    ),
]
OptionalWeights = Annotated[
    str | None,
    typer.Argument(help="Weights, a run or a name, as for prune; default: first train from random weights."),
]
RunPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run folder; default: the newest under ./runs.")
]
RunOrReport = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run folder or a report.json; default: newest run.")
]
RunOrSweep = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="A run folder, or a sweep's; default: the latest run under ./runs."),
]
RunsFolder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that contains the runs.")]
WeightsRunOrOnnx = Annotated[
    str, typer.Argument(help="A weights file, a run folder, an .onnx file, or the name of weights as for prune.")
]
WeightsOrRun = Annotated[
    str | None, typer.Argument(help="Weights, a run, or the name of weights; default: random weights.")
]
OnnxFiles = Annotated[list[Path], typer.Argument(help=".onnx files, or a run folder for its pair.")]

# Recipes
RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="A recipe file, or the name of a shipped recipe.")]
RatesRecipe = Annotated[
    str | None,
    typer.Option("--recipe", "-r", help="Also measure whether this recipe's images or its training are slower."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe key: section.key=value. Repeatable.")
]
RecipeFiles = Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Files or names of recipes.")]
CheckedWeights = Annotated[
    str | None, typer.Option("--weights", help="Try these weights too: a file, a finished run, or a name as for prune.")
]
NoTiming = Annotated[bool, typer.Option("--no-timing", help="Measure no training steps, which takes some seconds.")]
RecipeToPrint = Annotated[str | None, typer.Argument(help="Print this recipe.")]
NewRecipe = Annotated[Path, typer.Argument(help="The recipe file to write.")]
NewWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Weights of the network: a file, of which it is recognised by names and shapes, or a name as for prune.",
    ),
]
NewImages = Annotated[
    Path | None, typer.Option("--images", help="The folder of class folders, or of one of torchvision's data sets.")
]
NewTarget = Annotated[
    str | None, typer.Option("--target", metavar="KEY=SHARE", help="What to prune to; default: macs=0.5.")
]
AllKeys = Annotated[bool, typer.Option("--all", help="Write every key with its default and its meaning.")]

# Where results go
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="RUN", help="Run folder; default: runs/NAME.")]
SweepOutput = Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Default: runs/NAME-sweep.")]
Trained = Annotated[Path, typer.Option("--output", "-o", metavar="WEIGHTS", help="The .safetensors file to write.")]
Converted = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Default: pruned.pt2 or pruned.torchscript.pt in the run, or NAME.safetensors here.",
    ),
]
JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE.xml", help="Write (or replace) a JUnit file, a test per limit.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", help=f"{' or '.join(names_in(TRACKERS))}: each epoch's figures there too. Repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]

# How a command runs
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from where this run was saved last.")]
Force = Annotated[bool, typer.Option("--force", help="Start over: replace the files of an earlier run.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run your own code that the recipe names, such as model.factory, from the working directory.",
    ),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickled whole module; this can run any code in it.")
]

# ONNX files and their measurement
OnnxFlag = Annotated[bool, typer.Option("--onnx", help="Write ONNX files (the one format so far).")]
Opset = Annotated[
    int | None, typer.Option("--opset", help=f"ONNX opset, {MIN_OPSET} to {MAX_OPSET}; default: the recipe's.")
]
Batch = Annotated[
    str | None, typer.Option("--batch", metavar="dynamic|N", help="Images per call; default: the recipe's.")
]
Half = Annotated[bool | None, typer.Option("--fp16/--no-fp16", help="Also write pruned.fp16.onnx.")]
Int8 = Annotated[
    bool | None, typer.Option("--int8/--no-int8", help="Also write pruned.int8.onnx, calibrated on the search split.")
]
Pixels = Annotated[
    bool | None,
    typer.Option(
        "--with-preprocessing/--no-preprocessing", help="Also write pruned.pixels.onnx, which takes uint8 pixels."
    ),
]
Format = Annotated[str, typer.Option("--to", help="pt2, torchscript or safetensors.")]
IgnoreMetadata = Annotated[
    bool, typer.Option("--ignore-metadata", help="Continue even if the file is for other classes or preprocessing.")
]
BatchSizes = Annotated[list[int] | None, typer.Option(min=1, help="Images per call; default: 1. Repeatable.")]
Threads = Annotated[list[int] | None, typer.Option(min=1, help="Each pinned to a core; default: 1. Repeatable.")]
Calls = Annotated[int | None, typer.Option("--runs", min=20, help="Calls per model; default: at least 200 and 3 s.")]
OnnxLatency = Annotated[
    bool, typer.Option("--onnx-latency", help="Also measure each layer's share of the time in onnxruntime.")
]

# The gate
Baseline = Annotated[
    Path | None, typer.Option("--baseline", metavar="RUN", help="A run folder or report.json to compare with: main's.")
]


def gate_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**values` of a command by an option for each key of the recipe's gate section.

    Options of limits on regressions come after the parameter `baseline`, all others before it.
    """
    beside = [key for key in Gate.model_fields if key in REGRESSION_LIMITS]
    alone = [key for key in Gate.model_fields if key not in REGRESSION_LIMITS]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "baseline":
            parameters += [*_options_of(alone), parameter, *_options_of(beside)]
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    return command


def option_name(key: str) -> str:
    """Return the option of a recipe key: "--max-top1-drop" for max_top1_drop."""
    return f"--{key.replace('_', '-')}"


def _options_of(keys: Iterable[str]) -> list[inspect.Parameter]:
    return [_option_of(key) for key in keys]


def _option_of(key: str) -> inspect.Parameter:
    field = Gate.model_fields[key]
    option = typer.Option(None, option_name(key), help=field.description)
    kind = _plain_type(field.annotation) | None
    return inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=option, annotation=kind)


def _plain_type(annotation: Any) -> Any:
    """Return the type of a key's value without its bounds and without None; a choice of words is a text."""
    if get_origin(annotation) is Literal:
        return str
    inner = get_args(annotation)
    return _plain_type(inner[0]) if inner else annotation
