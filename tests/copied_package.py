"""A copy of the package with one more file in it, for tests of registries: adding an entry takes one file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import edcompress
from edcompress.core.recipe.yaml_files import recipes_folder


def copy_with(root: Path, file: str, text: str) -> Path:
    """Copy the package and its recipes to `root`, add a file to the package, and return `root`."""
    package = Path(edcompress.__file__).parent
    shutil.copytree(package, root / "edcompress", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(recipes_folder(), root / "recipes", dirs_exist_ok=True)
    (root / "edcompress" / file).write_text(text)
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the copied package."""
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "100"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
