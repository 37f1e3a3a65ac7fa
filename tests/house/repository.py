"""What the house's tests ask about the repository: its root, its tracked files, the modules of its folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

# Where each import name lies. Three packages live at the top level and are mapped into rs4d_edge.
PACKAGE_FOLDERS = {
    "rs4d_edge": ROOT / "rs4d_edge",
    "rs4d_edge.export": ROOT / "export",
    "rs4d_edge.runtimes": ROOT / "runtimes",
    "rs4d_edge.calibration": ROOT / "calibration",
}


def copy_tracked(folder: Path) -> None:
    """Every tracked file into `folder`, as a clean checkout has them."""
    for path in tracked_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path, follow_symlinks=False)


def project() -> dict[str, Any]:
    """The `[project]` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def tracked_files() -> list[Path]:
    """Paths relative to the root, of files that are in git and on disk; skips the test outside of a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the repository is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def modules_on_disk() -> dict[str, Path]:
    """Every module's import name and tracked file, packages as `name.__init__`."""
    tracked = {ROOT / path for path in tracked_files()}
    found = {}
    for package, folder in PACKAGE_FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if path in tracked:
                found[".".join([package, *path.relative_to(folder).with_suffix("").parts])] = path
    return found
