"""The wheel, built from a clean copy of the tree: it holds what the folders hold, and works far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.house.repository import PACKAGE_FOLDERS, ROOT, modules_on_disk, project, tracked_files

# Run against the installed wheel: one folder for each mapped package and for each kind of file that a wheel can lose.
SMOKE = (
    "tests/reference/test_scan.py",
    "tests/reference/test_presets.py",
    "tests/runtimes",
    "tests/scenes/test_canvas.py",
    "tests/test_contract.py",
    "tests/test_detections.py",
)


@pytest.fixture(scope="module")
def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_of_the_four_folders_and_no_other(content: set[str]) -> None:
    expected = {name.replace(".", "/") + ".py" for name in modules_on_disk()}
    assert {name for name in content if name.endswith(".py")} == expected


def test_generic_names_do_not_reach_site_packages(content: set[str]) -> None:
    top = {name.split("/")[0] for name in content}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rs4d_edge"}


def test_the_wheel_holds_sources_weights_and_the_typing_mark(content: set[str]) -> None:
    package = PACKAGE_FOLDERS["rs4d_edge"]
    data = {
        path.relative_to(ROOT).as_posix()
        for path in map(ROOT.joinpath, tracked_files())
        if path.is_relative_to(package) and path.suffix not in {".py", ".so"}
    }
    assert data - content == set()
    assert "rs4d_edge/py.typed" in data
    assert any(name.endswith("/licenses/LICENSE") for name in content)


def test_every_console_script_has_its_module(content: set[str]) -> None:
    scripts = project()["scripts"]
    for name, target in scripts.items():
        module, function = target.split(":")
        assert module.replace(".", "/") + ".py" in content, name
        assert function == "main"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel; its dependencies come from the one running now."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched last and its own .pth files are not read, so the editable install stays hidden.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def _outside(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(installed), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_installed_wheel_is_what_is_imported(installed: Path, tmp_path: Path) -> None:
    names = ["rs4d_edge", "rs4d_edge.export", "rs4d_edge.runtimes", "rs4d_edge.calibration"]
    probe = f"import importlib\nfor name in {names!r}: print(importlib.import_module(name).__file__)"
    done = _outside(installed, "-c", probe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(installed.parents[1])


def test_the_console_scripts_start(installed: Path, tmp_path: Path) -> None:
    """One for real; the others' functions in one process, because each start of torch takes seconds."""
    scripts = sorted(project()["scripts"])
    assert [name for name in scripts if not (installed.parent / name).exists()] == []
    started = _outside(installed, str(installed.parent / "rs4d-predict"), "--help", cwd=tmp_path)
    assert started.returncode == 0, started.stderr[-2000:]
    assert "Usage" in started.stdout
    probe = (
        "import sys, importlib.metadata\n"
        "for name in sys.argv[1:]:\n"
        "    (entry,) = importlib.metadata.entry_points(group='console_scripts', name=name)\n"
        "    sys.argv = [name, '--help']\n"
        "    try: entry.load()()\n"
        "    except SystemExit as end: print(name, 'ended with', end.code)\n"
    )
    done = _outside(installed, "-c", probe, *scripts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if "ended with" in line] == [f"{s} ended with 0" for s in scripts]


def test_a_selection_of_the_tests_passes_against_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\npythonpath = .\nmarkers = slow\n"
    )
    missing = [name for name in SMOKE if not (tmp_path / name).exists()]
    assert missing == []
    done = _outside(installed, "-m", "pytest", "-q", "-x", "-m", "not slow", *SMOKE, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
