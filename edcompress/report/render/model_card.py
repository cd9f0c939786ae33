"""model_card.md: what the exported network is, what it was measured at, and how to feed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from edcompress.core.recipe.deployment import Batch
from edcompress.core.results.report import Preprocessing, Report, TargetResult
from edcompress.core.results.scores import MetricInfo, images_of
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.outcome import loud_warnings, remarks
from edcompress.report.render.formatting import calls, measured_with, plain, setting
from edcompress.report.render.markdown import code, literal, table_row
from edcompress.report.render.rows import comparison_rows, proof_rows, variant_headings, variant_rows

MOST_CLASSES = 20
"""Most class names in the card; the others are in the file's metadata."""


class CardSubject(NamedTuple):
    """What a card says about the network besides its report: the data set, the number of its classes, and the images per call.

    `outputs` has the shape of each output of the files for one image, by name.
    """

    dataset: str
    num_classes: int
    batch: Batch
    outputs: Mapping[str, tuple[int, ...]] | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each output for one image, by name."""
        return self.outputs or {"logits": (self.num_classes,)}


def render_card(report: Report, subject: CardSubject, preprocessing: Preprocessing, classes: Sequence[str]) -> str:
    """Return the card of an exported run as Markdown.

    Args:
        report: The run's report.
        subject: The data set, the number of classes, and the images per call.
        preprocessing: What is done to an image before the network sees it.
        classes: The class names in index order.
    """
    parts = [
        f"# {literal(report.network)}, pruned",
        _what(report, subject),
        "## Figures",
        _figures(report, subject.dataset),
        "## Input and output",
        _interface(report, subject, preprocessing, classes),
        "## Use it",
        "With `numpy`, `pillow` and `onnxruntime`, in this folder:",
        f"```python\n{snippet(preprocessing, subject.batch, subject.shapes)}```",
    ]
    return "\n\n".join(parts) + "\n"


def snippet(
    preprocessing: Preprocessing, batch: Batch = "dynamic", outputs: Mapping[str, tuple[int, ...]] | None = None
) -> str:
    """Return a Python program that prints what pruned.onnx gives for image.png: logits and top class, or the shapes of other outputs."""
    (height, width), channels = preprocessing.height_width, len(preprocessing.mean)
    count, repeated = (1, "") if batch == "dynamic" else (batch, f".repeat({batch}, 0)")
    if not _from_file(preprocessing):
        return _array_snippet(preprocessing, repeated, outputs)
    turned = preprocessing.exif_orientation == "apply"
    opened = 'ImageOps.exif_transpose(Image.open("image.png"))' if turned else 'Image.open("image.png")'
    return f"""import numpy as np
import onnxruntime
from PIL import Image{", ImageOps" if turned else ""}

image = {opened}.convert("{preprocessing.channels}")
{_resizing(preprocessing)}
pixels = np.asarray(image, np.float32).reshape({height}, {width}, {channels}) * np.float32(1 / 255)
pixels = (pixels - np.float32({list(preprocessing.mean)})) / np.float32({list(preprocessing.std)})
images = pixels.transpose(2, 0, 1)[None]{repeated}  # [{count}, {channels}, {height}, {width}]
{_answer(outputs)}
"""


def _answer(outputs: Mapping[str, tuple[int, ...]] | None) -> str:
    run = 'onnxruntime.InferenceSession("pruned.onnx").run(None, {"images": images})'
    if outputs and len(outputs) > 1:
        return f"{', '.join(outputs)} = {run}\nprint({', '.join(f'{name}[0].shape' for name in outputs)})"
    if outputs and len(next(iter(outputs.values()))) > 1:
        return f"logits = {run}[0]\nprint(logits[0].argmax(0))  # the class of each pixel"
    return f"logits = {run}[0]\nprint(logits[0].tolist(), logits[0].argmax())"


def _from_file(preprocessing: Preprocessing) -> bool:
    """Whether the network's input is made of an image file, and not by the user's own code or of arrays of many channels."""
    return preprocessing.own is None and preprocessing.channels != "stored"


def _array_snippet(preprocessing: Preprocessing, repeated: str, outputs: Mapping[str, tuple[int, ...]] | None) -> str:
    """Return the program for an image that is prepared already, in image.npy."""
    (height, width), channels = preprocessing.height_width, len(preprocessing.mean)
    normalised = (
        f"\nimage = (image / 255 - np.float32({list(preprocessing.mean)})[:, None, None])"
        f" / np.float32({list(preprocessing.std)})[:, None, None]"
    )
    return f"""import numpy as np
import onnxruntime

image = np.load("image.npy").astype(np.float32)  # [{channels}, {height}, {width}], prepared as above{
        "" if preprocessing.own else normalised
    }
images = image[None].astype(np.float32){repeated}
{_answer(outputs)}
"""


def _resizing(preprocessing: Preprocessing) -> str:
    (height, width), short, how = preprocessing.height_width, preprocessing.resize, preprocessing.interpolation.upper()
    if short is None:
        return f"image = image.resize(({width}, {height}), Image.Resampling.{how})"
    return f"""w, h = (int({short} * side / min(image.size)) for side in image.size)
left, top = (round(d / 2) if d > 0 else -(-d // 2) for d in (w - {width}, h - {height}))
image = image.resize((w, h), Image.Resampling.{how}).crop((left, top, left + {width}, top + {height}))"""


def _what(report: Report, subject: CardSubject) -> str:
    asked = _asked(report.target, report.metric)
    return (
        f"{code(report.network)} on {subject.dataset}, {subject.num_classes} classes, pruned by edcompress with the recipe "
        f"{code(report.recipe)} ({literal(report.search.method)}, {asked}) from the weights of {_weights(report)}. "
        "`dense.onnx` is the network before pruning, `pruned.onnx` the one after; `report.json` has all measurements."
    )


def _weights(report: Report) -> str:
    """Return the weights from which the run started, with where they came from if they were given by name."""
    if (source := report.source) is None:
        return code(report.checkpoint)
    license_name = literal(source.license) if source.license else "not stated there"
    return f"{code(report.checkpoint)} ({literal(source.address)}; licence {license_name})"


def _asked(target: TargetResult, metric: MetricInfo) -> str:
    if target.is_drop:
        asked, lost = (
            f"{100 * value:.2f}" if metric.share else plain(value) for value in (target.asked, target.achieved)
        )
        points = "points " if metric.share else ""
        return f"asked to lose at most {asked} {points}of {metric.label}, {lost} lost on the held-out images"
    if target.kind == "none":
        return f"no target, {target.achieved:.1%} of its macs left"
    return f"asked to keep at most {target.asked:.1%} of its {target.kind}, {target.achieved:.1%} left"


def _figures(report: Report, dataset: str) -> str:
    measured = report.pruned.latency_ms
    assert measured is not None  # a card is written of an exported run
    total, warning = images_of(report.pruned.headline(report.metric)), noise_warning(report.latencies)
    counted = report.metric.counted
    measures = "Accuracies are" if counted else f"{literal(report.metric.title)} is"
    say = "say" if counted else "says"
    return (
        f"{measures} of the {total} test images of {dataset}, and {say} nothing about other images. Latencies were "
        f"measured at {setting(measured)}, in {calls(measured)}, with {literal(measured_with(measured))}."
        + (f" Warning: {warning}.\n\n" if warning else "\n\n")
        + "".join(f"**Warning: {literal(text)}.**\n\n" for text in loud_warnings(report))
        + "".join(f"Note on {literal(text)}.\n\n" for text in remarks(report))
        + _table(("", "dense", "pruned", "change"), comparison_rows(report))
        + "\n\n"
        + (_table(variant_headings(report), variant_rows(report)) + "\n\n" if report.variants else "")
        + _table(("proof", "largest difference", "relative", "of"), proof_rows(report))
    )


def _interface(report: Report, subject: CardSubject, preprocessing: Preprocessing, classes: Sequence[str]) -> str:
    (height, width), channels = preprocessing.height_width, len(preprocessing.mean)
    batch = "batch" if subject.batch == "dynamic" else subject.batch
    lines = [
        f"Input `images`: float32 [{batch}, {channels}, {height}, {width}], channels {preprocessing.channels}.",
        f"Before: {_before(preprocessing)}.",
        *_outputs(batch, subject.shapes, report),
        f"Classes: {_named(classes)}.",
        "The metadata of the ONNX files has the same as JSON: `edcompress.preprocessing` and `edcompress.classes`.",
    ]
    if report.proof.onnx_vs_pixels:
        lines.append(
            f"`pruned.pixels.onnx` takes `pixels` instead: uint8 [{batch}, {height}, {width}, {channels}], resized and cropped as above; "
            "it normalises them itself."
        )
    return "\n".join(f"- {line}" for line in lines)


def _outputs(batch: str | int, shapes: Mapping[str, tuple[int, ...]], report: Report) -> list[str]:
    """Return a line for each output of the files."""
    one_class = report.pruned.accuracy is not None
    lines = []
    for name, shape in shapes.items():
        use = "softmax makes them probabilities" if one_class else "raw values, as the network returns them"
        sizes = ", ".join(map(str, (batch, *shape)))
        lines.append(f"Output `{name}`: float32 [{sizes}]; {use}.")
    return lines


def _before(preprocessing: Preprocessing) -> str:
    if preprocessing.own == "data set":
        return "your own preprocessing, in the data set that gave the test images as float tensors"
    if preprocessing.own:
        own = code(preprocessing.own)
        return f"your own preprocessing, {own} (`data.eval_transform`); what it returns as pixels is then {_scaled(preprocessing)}"
    turned = "" if preprocessing.channels == "stored" else _turned(preprocessing)
    return f"{turned}{_geometry(preprocessing)}, {_interpolation(preprocessing)} as Pillow does it; then " + _scaled(
        preprocessing
    )


def _scaled(preprocessing: Preprocessing) -> str:
    return f"(pixels / 255 - mean) / std with mean {list(preprocessing.mean)} and std {list(preprocessing.std)}"


def _named(classes: Sequence[str]) -> str:
    names = ", ".join(f"{number} {literal(name)}" for number, name in enumerate(classes[:MOST_CLASSES]))
    more = len(classes) - MOST_CLASSES
    return names + (f", and {more} more in the metadata" if more > 0 else "")


def _geometry(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.height_width
    if preprocessing.resize is None:
        return f"resized to {_size(height, width)}"
    return f"resized to a short side of {preprocessing.resize}, centre-cropped to {_size(height, width)}"


def _size(height: int, width: int) -> str:
    return f"{height} x {width}" + ("" if height == width else " (height x width)")


def _turned(preprocessing: Preprocessing) -> str:
    return {"apply": "rotated as EXIF says, ", "ignore": "as stored, whatever EXIF says, ", None: ""}[
        preprocessing.exif_orientation
    ]


def _interpolation(preprocessing: Preprocessing) -> str:
    return preprocessing.interpolation + (" with antialiasing" if preprocessing.antialias else "")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([table_row(headings), table_row(["---"] * len(headings)), *map(table_row, rows)])
