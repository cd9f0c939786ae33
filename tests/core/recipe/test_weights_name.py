from pathlib import Path

import pytest

from edcompress.core.errors import WeightsError
from edcompress.core.recipe.weights_name import NOTHING, SOURCES, SYNTAX, fill, offer_of, weights_name
from edcompress.core.registry import names_in

OFFERED = {
    "model": {"arch": "resnet18", "num_classes": 1000},
    "data": {"image_size": 224, "resize": 256, "mean": (0.4,), "std": (0.2,), "interpolation": "bicubic"},
}


def test_forms_are_of_sources() -> None:
    assert set(SYNTAX) <= set(names_in(SOURCES))


@pytest.mark.parametrize(
    ("text", "source", "rest"),
    [
        ("torchvision:resnet50@V2", "torchvision", "resnet50@V2"),
        ("hf:a/b@main", "hf", "a/b@main"),
        ("https://h/a.pt#sha256=00", "https", "//h/a.pt#sha256=00"),
        ("http://h/a.pt", "https", "//h/a.pt"),
        ("HTTPS://h/a.pt", "https", "//h/a.pt"),
    ],
)
def test_a_name_has_a_source_before_its_colon(text: str, source: str, rest: str) -> None:
    name = weights_name(text)
    assert name
    assert (name.source, name.rest, name.text) == (source, rest, text)


@pytest.mark.parametrize(
    "given", ["weights.pt", "runs/r20", "a/b:c.pt", "C:\\weights.pt", "", Path("hf:a/b"), None, "./hf:a/b"]
)
def test_paths_are_not_names(given: object) -> None:
    assert weights_name(given) is None
    assert offer_of(given) == NOTHING


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no source 'step' of weights"):
        weights_name("step:12.pt")
    Path("step:12.pt").touch()
    assert weights_name("step:12.pt") is None


@pytest.mark.parametrize(
    ("own", "filled"),
    [
        ({}, OFFERED),
        ({"data": {"image_size": 96}}, {**OFFERED, "data": {"image_size": 96, "mean": (0.4,), "std": (0.2,), "interpolation": "bicubic"}}),
        ({"data": {"resize": 300}}, {**OFFERED, "data": {**OFFERED["data"], "resize": 300}}),
        ({"data": {"resize": None}}, {**OFFERED, "data": {**OFFERED["data"], "resize": None}}),
        ({"data": {"mean": [0.1]}}, {**OFFERED, "data": {"mean": [0.1], "image_size": 224, "resize": 256, "interpolation": "bicubic"}}),
        ({"model": {"factory": "a:b"}}, {**OFFERED, "model": {"factory": "a:b", "num_classes": 1000}}),
        ({"model": {"arch": None, "factory": "a:b"}}, {**OFFERED, "model": {"arch": None, "factory": "a:b", "num_classes": 1000}}),
        ({"model": {"num_classes": 7}}, {**OFFERED, "model": {"arch": "resnet18", "num_classes": 7}}),
        ({"model": "no mapping", "seed": 3}, {**OFFERED, "model": "no mapping", "seed": 3}),
    ],
)  # fmt: skip
def test_keys_that_are_set_win_with_what_belongs_to_them(own: dict[str, object], filled: dict[str, object]) -> None:
    assert fill(own, OFFERED) == filled
