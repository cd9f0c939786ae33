"""Beyond classification: torchvision's segmentation networks on maps of shapes, through the whole tool."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from edcompress.core.results.measures import TOLERANCE
from edcompress.deploy.runtime.parity import run_onnx
from edcompress.report.gate.consistency import faults
from edcompress.runs.reading import read_report
from edcompress.workflows.load import load

pytestmark = pytest.mark.integration

CODE = '''
import torch
import torchvision

SIZE = 48

def drawn(count, seed):
    """Noisy images with a bright square (1) and a dark disc (2) on grey (0), a frame of pixels that do not count, and their maps."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, maps = [], []
    for _ in range(count):
        a, b, c, d = torch.randint(8, SIZE - 8, (4,), generator=generator).tolist()
        found = torch.zeros(SIZE, SIZE, dtype=torch.int64)
        found[((y - a).abs() < 9) & ((x - b).abs() < 9)] = 1
        found[(y - c) ** 2 + (x - d) ** 2 < 64] = 2
        pixels = torch.tensor([110.0, 230.0, 20.0])[found] + 12 * torch.randn(SIZE, SIZE, generator=generator)
        found[:1] = 255
        images.append(pixels.clamp(0, 255).to(torch.uint8).expand(3, -1, -1).clone())
        maps.append(found)
    return list(zip(images, maps))

def shapes(): return drawn(64, 0), drawn(12, 1), drawn(24, 2)

def quick(network):
    """Let statistics follow in the few steps of a test: their momentum is 0.01 by default."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.1
    return network

def lraspp():
    torch.manual_seed(0)
    return quick(torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3))

def deeplab():
    """With its auxiliary head, so that the network returns out and aux."""
    torch.manual_seed(0)
    return quick(torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=True))
'''

RECIPE = """
model: {{factory: "shapes_user:{network}", num_classes: 3{output}}}
data: {{dataset: factory, factory: "shapes_user:shapes", image_size: 48, batch_size: 8, eval_batch_size: 12, augment: none}}
metric: mean_iou
target: {{macs: 0.6}}
search: {{epochs: 1, evolve_every: 3, score_batch: 8, population: 4}}
train: {{epochs: {epochs}, lr: 0.003, optimizer: adamw, loss: pixel_cross_entropy}}
finetune: {{epochs: 2, lr: 0.001, distill: 0.5, loss: pixel_cross_entropy, loss_options: {{class_weights: [1, 2, 2]}}}}
export: {{int8: {int8}}}
benchmark: {{runs: 20}}
gate: {{max_drop: 0.9, min_speedup: null, disturbed: allow, max_parity: 1e-4}}
"""


@pytest.mark.parametrize(("network", "output"), [("lraspp", ""), ("deeplab", ", output: out")])
def test_maps_go_all_the_way(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, output: str
) -> None:
    (tmp_path / "shapes_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    first = network == "lraspp"
    text = RECIPE.format(network=network, output=output, epochs=12 if first else 2, int8=str(first).lower())
    (tmp_path / "maps.yaml").write_text(text)
    ended = cli("run", "--recipe", "maps.yaml", "--trust-code", "-o", "here")
    assert ended.code == 0, ended.err + ended.out
    folder = tmp_path / "here"
    report = read_report(folder / "report.json")

    # Proofs: masked = pruned = loaded again = ONNX.
    proofs = dict(report.proof)
    for name in ("masked_vs_pruned", "pruned_vs_reloaded", "dense_vs_onnx", "pruned_vs_onnx"):
        assert proofs[name].relative <= TOLERANCE, name
    assert report.pruned.size.macs < 0.61 * report.dense.size.macs

    # The files give the maps of the network.
    loaded = load(folder, trust_code=True)
    images = torch.randn(5, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        maps = loaded(images)["out"]
    assert [value.name for value in onnx.load(folder / "pruned.onnx").graph.output] == ["logits"]
    torch.testing.assert_close(run_onnx(folder / "pruned.onnx", images), maps, rtol=1e-3, atol=1e-3)

    # The metric is that of the definition, and learned.
    assert report.metric.label == "mean IoU"
    assert report.pruned.accuracy is None
    assert report.dense.score
    assert not first or report.dense.score.value > 0.33  # one class everywhere has at most 0.3
    assert report.pruned.onnx_score
    assert report.pruned.score_drop
    assert report.pruned.score_drop.resamples == 1000
    assert list(faults(report)) == []
    assert report.verdict
    check = next(one for one in report.verdict.checks if one.name == "drop")
    assert (check.label, check.interval is not None, check.passed) == ("mean IoU drop", True, True)
    assert report.pruned.latency_ms

    # The words are those of the metric.
    for words in (ended.out, (folder / "report.html").read_text(), (folder / "model_card.md").read_text()):
        assert "mean IoU" in words
        assert "top-1" not in words.lower()
    assert "Output `logits`: float32 [batch, 3, 48, 48]" in (folder / "model_card.md").read_text()
    evaluated = json.loads(
        cli("evaluate", folder / "pruned.onnx", "--recipe", "maps.yaml", "--trust-code", "--json").out
    )
    assert evaluated["score"] == report.pruned.onnx_score.model_dump()
    assert cli("gate", folder, "--max-drop", "0.9", "--level", "0.9").code == 0
