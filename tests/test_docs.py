"""The documentation says what the program does: keys, modules, paths, links and commands."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_imports import LAYERS
from typer.main import get_command

from edcompress.cli.app import app
from edcompress.core.recipe.loading import read_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[tuple[str, str]]:
    """Every `$ edcompress` line of the pages' console blocks, joined where it goes on."""
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.strip().startswith("$ edcompress"):
                    yield page.name, line.strip().removeprefix("$ edcompress").partition("  #")[0].strip()


COMMANDS = list(commands())


def test_the_page_of_keys_is_that_of_the_schema() -> None:
    reference = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    assert (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8") == reference["page"](), (
        "run python docs/reference.py"
    )


def test_the_map_and_the_modules_are_those_of_the_code() -> None:
    architecture = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    for name, text in (("architecture.svg", architecture["svg"]()), ("modules.md", architecture["page"]())):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run python docs/architecture.py"


def test_the_map_draws_the_layers_that_the_tests_hold() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "architecture.py"))["layers"]()
    assert [set(layer) for layer in reversed(drawn)] == [set(layer) for layer in LAYERS[:-1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    paths = re.findall(r"`((?:edcompress|tests|benchmarks|recipes|docs)/[^`* ]+)`", page.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_architecture_names_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)(?:\([^`]*\))?`\s+in\s+`([\w/]+\.py)`", text)
    defined = {path: (ROOT / "edcompress" / path).read_text(encoding="utf-8") for _, path in named}
    assert len(named) > 20
    missing = [name for name, path in named if not re.search(rf"^(def |class )?{name}\b", defined[path], re.MULTILINE)]
    assert missing == []
    paths = [path for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text) if "NAME" not in path]
    assert [path for path in paths if not (ROOT / "edcompress" / path).exists() and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_there_are_commands_to_check() -> None:
    assert {page for page, _ in COMMANDS} >= {"README.md", "index.md", "targets.md", "export.md", "ci.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_can_be_typed_as_they_stand(page: str, line: str) -> None:
    """Names of commands and options, and the recipe with its overrides."""
    name, *arguments = shlex.split(line)
    parsed = get_command(app).commands[name].make_context(name, arguments).params  # type: ignore[attr-defined]
    recipe = parsed.get("recipe")
    if isinstance(recipe, str) and recipe != "my.yaml":
        single = [
            re.sub(r",.*", "", override) if name == "sweep" else override for override in parsed.get("overrides") or ()
        ]
        assert read_recipe(recipe, single), page
