"""The pages in headless Chromium: nothing is missing, nothing complains, and the figures are those of report.json."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edcompress.report.render.rows import comparison_rows, proof_rows, stage_rows
from edcompress.runs.folder import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-logging=stderr")  # fmt: skip
PROBE = "<script>document.title = JSON.stringify([document.documentElement.scrollWidth, window.innerWidth])</script>"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
]


def opened(page: Path, tmp_path: Path, width: int) -> tuple[str, str]:
    """What Chromium makes of a page, and what it says on its console."""
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return html.unescape(done.stdout), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [500, 1200])
def test_the_report_opens_whole(finished: Path, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text((finished / "report.html").read_text() + PROBE)
    dom, console = opened(page, tmp_path, width)
    assert console == ""
    title = re.search(r"<title>(\[.*?\])</title>", dom)
    assert title
    needed, given = json.loads(title.group(1))
    assert needed <= given, "the page scrolls sideways"
    report = RunFolder(finished).read_report()
    stages = [(row.name, row.top1, row.counts) for row in stage_rows(report)]
    for row in (*comparison_rows(report), *stages, *proof_rows(report)):
        for figure in row:
            assert figure in dom


def test_what_a_page_complains_of_is_heard(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<title>page</title><script>console.error('something is missing')</script>")
    assert "something is missing" in opened(page, tmp_path, 500)[1]
