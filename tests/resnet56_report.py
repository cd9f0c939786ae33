"""One report of a CIFAR ResNet-56 at half the MACs, with every figure filled in."""

from __future__ import annotations

from typing import Any

import pytest

from edcompress.core.results.report import Report

PARITY = "logits of 256 images, of 8 at batch 1, 2 and 5 too"
ENVIRONMENT = {
    "processor": "a processor",
    "cores": [0],
    "governor": None,
    "system": "Linux",
    "python": "3.12.1",
    "onnxruntime": "1.32.0",
}


def model(top1: int, top5: int, params: int, macs: int, onnx_bytes: int, latency: tuple[float, float, float]) -> dict:
    p50, p90, p99 = latency
    measured = {"p50": p50, "p90": p90, "p99": p99, "n": 300, "batch_size": 1, "threads": 1}
    return {
        "accuracy": {"top1": {"correct": top1, "total": 10000}, "top5": {"correct": top5, "total": 10000}},
        "size": {"params": params, "macs": macs, "onnx_bytes": onnx_bytes},
        "latency_ms": {**measured, "provider": "CPUExecutionProvider", "environment": dict(ENVIRONMENT)},
    }


def paired(both: int, dense_only: int, other_only: int, neither: int, same_class: int) -> dict[str, Any]:
    pairs = {"both": both, "dense_only": dense_only, "other_only": other_only, "neither": neither}
    return {
        "top1": pairs,
        "top5": {"both": 9970, "dense_only": 11, "other_only": 5, "neither": 14},
        "same_class": same_class,
    }


def proof(difference: float, scale: float, of: str) -> dict[str, Any]:
    return {"max_abs_diff": difference, "scale": scale, "of": of}


def agreement(mean: float, correct: int) -> dict[str, Any]:
    return {"mean_abs_diff": mean, "agreeing": {"correct": correct, "total": 256}}


@pytest.fixture
def content() -> dict[str, Any]:
    """The report as a JSON object, for tests to change before they build it."""
    dense = model(9417, 9981, 855_770, 126_800_000, 3_480_112, (6.021, 6.313, 7.904))
    masked = model(8752, 9920, 855_770, 126_800_000, 3_480_112, (6.021, 6.313, 7.904))
    pruned = model(9333, 9975, 425_120, 63_080_000, 1_752_060, (3.272, 3.467, 4.115))
    for result in (dense, pruned):
        result["onnx_accuracy"] = result["accuracy"]
    for result, more, most, fewer in ((dense, 7, 942, 941), (pruned, 3, 934, 933)):
        right = [most] * more + [fewer] * (10 - more)
        result["recalls"] = {"images": [1000] * 10, "right": right, "given": [1000] * 10}
    pruned["paired"] = paired(9302, 115, 31, 552, 9688)
    return {
        "schema_version": 1,
        "recipe": "resnet56-cifar10",
        "recipe_hash": "4f1c99d0a2b37e55",
        "network": "resnet56",
        "seed": 7,
        "checkpoint": "resnet56.safetensors",
        "dense": dense,
        "masked": {**masked, "latency_ms": None},
        "after_surgery": {**masked, "latency_ms": None},
        "pruned": pruned,
        "target": {"kind": "macs", "asked": 0.5, "achieved": 0.4975, "round_to": 8},
        "proof": {
            "masked_vs_pruned": proof(1.2e-06, 14.2, "logits of 32 images"),
            "pruned_vs_reloaded": proof(0.0, 14.2, "logits of 32 images"),
            "dense_vs_onnx": proof(4.1e-06, 15.0, PARITY) | agreement(2.2e-07, 256),
            "pruned_vs_onnx": proof(3.4e-06, 14.2, PARITY) | agreement(2.0e-07, 255),
        },
        "search": {
            "method": "edropout",
            "epochs": 4,
            "generations": 352,
            "converged": False,
            "diversity": 0.0412,
            "seconds": 412.0,
        },
        "seconds": 1310.0,
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None},
        "versions": {"torch": "2.15.0", "onnxruntime": "1.32.0"},
        "tested_on": {
            "dataset": "cifar10",
            "count": 10000,
            "labels_sha256": "0123456789abcdef",
            "pixels_sha256": 2 * "0123456789abcdef",
            "preprocessing": {
                "channels": "RGB",
                "image_size": 32,
                "resize": None,
                "crop": None,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        "classes": [f"class {number}" for number in range(10)],
    }


@pytest.fixture
def report(content: dict[str, Any]) -> Report:
    return Report.model_validate(content)


@pytest.fixture
def unexported(content: dict[str, Any]) -> Report:
    """The same run before `edcompress export`: no bytes, no latency, no ONNX proof, no accuracy of the files."""
    for name in ("dense", "masked", "after_surgery", "pruned"):
        content[name]["latency_ms"] = None
        content[name]["size"]["onnx_bytes"] = None
        content[name]["onnx_accuracy"] = content[name]["paired"] = content[name]["recalls"] = None
    content["proof"]["dense_vs_onnx"] = content["proof"]["pruned_vs_onnx"] = content["tested_on"] = None
    return Report.model_validate(content)
