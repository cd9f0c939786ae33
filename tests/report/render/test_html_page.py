import math
import re
from html.parser import HTMLParser
from itertools import combinations
from typing import Any

import pytest

from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report, Sweep
from edcompress.report.gate.verdict import judge
from edcompress.report.render.html_page import render_page, render_sweep
from edcompress.report.render.svg_charts import NAME, Dot, Line, dot_chart, line_chart, nice_ticks

PLAN = {"groups": [{"name": "layer1.0.conv1", "channels": 16, "kept": [0, 1, 5, 9]}]}
GENERATIONS = [
    {"generation": g, "budget": 1 - g / 80, "energy_best": 2 / (g + 1), "energy_mean": 3 / (g + 1), "diversity": 0.5}
    for g in range(40)
]
VOID = {"meta"}


class Balance(HTMLParser):
    """Raises when a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_well_formed(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []


def test_page_shows_the_numbers_of_the_report(report: Report) -> None:
    judged = report.model_copy(update={"verdict": judge(report, Gate())})
    page = render_page(judged, GENERATIONS, PLAN)
    check_well_formed(page)
    for shown in ("resnet56", "94.17 %", "-0.84 pp", "1.84x faster", "49.8 % are left", "3.4e-06", "4/16 · 25 %"):
        assert shown in page
    assert "gate passed" in page
    assert "<pre>edcompress prune resnet56.safetensors --recipe recipe.yaml</pre>" in page
    assert page.count("<polyline") == 4


def test_page_needs_no_network_and_no_script(report: Report) -> None:
    page = render_page(report, GENERATIONS, PLAN)
    for foreign in ("http://", "https://", "<script", "url(", "@import"):
        assert foreign not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_page_escapes_what_others_named(content: dict[str, Any]) -> None:
    nasty = "<img src=x onerror=alert(1)>\"'&"
    content.update(network=nasty, recipe=nasty, checkpoint=nasty, machine={nasty: nasty}, versions={nasty: nasty})
    content["search"]["method"] = nasty
    plan = {"groups": [{"name": nasty, "channels": 4, "kept": [1]}]}
    page = render_page(Report.model_validate(content), GENERATIONS, plan)
    assert "<img" not in page
    check_well_formed(page)


def test_charts_and_sweeps_escape_what_others_named(content: dict[str, Any]) -> None:
    nasty = "<img src=x onerror=alert(1)>\"'&"
    about = {"macs": 0.5, "params": 0.5, "p50_ms": 1.0, "top1": {"correct": 1, "total": 2}, "top1_drop": 0.1}
    points = [
        about | {"name": f"{nasty}{n}", "speedup": float(n), "front": n == 1, "distrusted": nasty} for n in (1, 2)
    ]
    dense = Report.model_validate(content).dense
    sweep = Sweep.model_validate({"network": nasty, "checkpoint": nasty, "dense": dense, "points": points})
    page = render_sweep(sweep)
    check_well_formed(page)
    assert "<img" not in page
    assert page.count("&lt;img") >= 10
    assert page.count("<polyline") == 3


@pytest.mark.parametrize(
    ("method", "generations", "said"),
    [
        ("gradual_magnitude", 40, "were ranked 40 times"),
        ("taylor", 0, "were ranked once"),
        ("plan", 0, "are those of search.plan"),
    ],
)
def test_page_says_how_a_method_without_a_population_chose(
    content: dict[str, Any], method: str, generations: int, said: str
) -> None:
    content["search"] |= {"method": method, "generations": generations, "converged": True, "diversity": 0.0}
    page = render_page(Report.model_validate(content), [], PLAN)
    assert f"the channels {said}, so" in page
    assert "converged" not in page


def test_page_of_a_control_before_the_export(unexported: Report) -> None:
    ranked = unexported.search.model_copy(update={"method": "gradual_magnitude"})
    unexported = unexported.model_copy(update={"search": ranked})
    page = render_page(unexported, [], {"groups": []})
    check_well_formed(page)
    assert "No population: the channels were ranked 352 times, so" in page
    assert "converged" not in page
    assert "<polyline" not in page
    assert "edcompress export --onnx" in page
    assert "not gated yet" in page


def test_a_failed_gate_is_named_in_words(report: Report) -> None:
    judged = report.model_copy(update={"verdict": judge(report, Gate(max_top1_drop=0.001))})
    assert "gate FAILED" in render_page(judged, GENERATIONS, PLAN)


def test_the_page_shows_the_interval_every_setting_and_what_measured_them(content: dict[str, Any]) -> None:
    about = {
        "processor": "a processor",
        "cores": [0],
        "governor": None,
        "system": "Linux",
        "python": "3.11.7",
        "onnxruntime": "1.32.0",
    }
    interval = {"estimate": 1.84, "low": 1.8, "high": 1.885, "confidence": 0.95}
    for name in ("dense", "pruned"):
        found = content[name]["latency_ms"] | {"environment": about, "processes": 5}
        content[name]["latency_ms"] = found | ({"speedup": interval} if name == "pruned" else {})
        content[name]["more_latency_ms"] = [found | {"batch_size": 8, "threads": 2}]
    page = render_page(Report.model_validate(content), [], PLAN)
    check_well_formed(page)
    for shown in (
        "1.84x (1.80 to 1.89), 95 % confidence",
        "in 5 processes",
        "batch 8, 2 threads",
        "a processor, cores 0, governor unknown",
    ):
        assert shown in page


def test_a_run_without_target_says_so(content: dict[str, Any]) -> None:
    content["target"] = {"kind": "none", "asked": 1.0, "achieved": 0.61, "round_to": 8}
    said = "No target was set; the search left 61.0 % of the multiply-accumulates."
    assert said in render_page(Report.model_validate(content), [], PLAN)


def test_unusable_energies_are_omitted(report: Report) -> None:
    generations = [{"generation": 0, "energy_best": None, "diversity": math.inf}, {"generation": 1}]
    page = render_page(report, generations, PLAN)
    assert page.count("No finite values.") == 3
    assert "nan" not in page


def test_ticks_that_are_close_together_have_labels_of_their_own() -> None:
    chart = line_chart("Top-1", [Line("best", "--pruned", [(0, 99.62), (1, 99.64)])], "generation")
    assert [label.text for label in chart.y_labels] == ["99.62", "99.625", "99.63", "99.635", "99.64"]


def test_long_runs_are_thinned_and_keep_their_last_point() -> None:
    chart = line_chart("Energy", [Line("best", "--pruned", [(x, x % 7) for x in range(5000)])], "generation")
    points = chart.curves[0].points.split()
    assert len(points) <= 401
    assert points[-1].startswith("100.00,")


@pytest.mark.parametrize("value", [0.22, 0.9743235128409679, 1984.385718285815, -0.22])
def test_values_that_differ_by_rounding_alone_are_drawn_as_equal(value: float) -> None:
    chart = line_chart("Budget", [Line("b", "--ink", [(0, value), (1, math.nextafter(value, math.inf))])], "generation")
    first, last = chart.curves[0].points.split()
    assert first.split(",")[1] == last.split(",")[1]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.013, 0.0171), (-3.0, 250.0), (1e-6, 2e-6), (5.0, 6.0)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 8


def test_names_of_dots_that_are_close_do_not_cover_each_other() -> None:
    dots = [Dot(name, x, y, True) for name, x, y in (("one", 1.26, 90.2), ("two", 1.39, 89.5), ("three", 1.49, 88.7))]
    chart = dot_chart("close", [*dots, Dot("far", 2.43, 79.3, True)], "speed-up")
    boxes = []
    for name in chart.names or ():
        side, x, y = re.findall(r"(left|right):([\d.]+)%;bottom:([\d.]+)%", name.place)[0]
        left = float(x) if side == "left" else 100 - float(x) - NAME[0]
        boxes.append((left, float(y) - NAME[1] * (name.side == "below")))
    assert len(boxes) == 4
    for one, other in combinations(boxes, 2):
        assert abs(one[0] - other[0]) >= NAME[0] - 0.01 or abs(one[1] - other[1]) >= NAME[1] - 0.01


def test_page_shows_what_the_run_chose_and_the_batch_norm_statistics(content: dict[str, Any]) -> None:
    content["settings"] = {"finetune": {"lr": 0.001}, "search": {"epochs": 6}}
    content["chosen"] = {"finetune.lr": "for adamw", "search.epochs": "a quarter", "data.gone": "no longer a key"}
    content["batch_norm"] = {"kept": "recalibrated", "trained": 0.5, "recalibrated": 0.25}
    page = render_page(Report.model_validate(content), [], PLAN)
    assert "Chosen by the run" in page
    for cells in (
        ("finetune.lr", "0.001", "for adamw"),
        ("search.epochs", "6", "a quarter"),
        ("data.gone", "–", "no longer a key"),
    ):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page.replace("\n", "")
    assert "they were estimated again: the loss on held-out images was 0.5000 with those of training" in page


def test_page_of_a_run_that_chose_nothing_has_no_such_section(report: Report) -> None:
    page = render_page(report, [], PLAN)
    assert "Chosen by the run" not in page
    assert "After fine-tuning" not in page
