"""A machine without a compiler: everything installs, exports, is proven and runs, through the plain forms."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.house.repository import ROOT, copy_tracked

COMPILER = re.compile(r"(.*-)?(g\+\+|c\+\+|clang\+\+|gcc|cc|clang|nvcc)(-[\d.]+)?")
MISSING = "no C++ compiler found"


class Machine(NamedTuple):
    """An editable install of a copy of the checkout, made and used where no compiler is on the path."""

    tree: Path
    python: Path
    environment: dict[str, str]
    install_log: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.tree, env=self.environment, capture_output=True, text=True, check=False)

    def libraries(self) -> list[Path]:
        return sorted(self.tree.rglob("*.so"))


def hide_compilers(folder: Path) -> dict[str, str]:
    """This environment with a path of links to every program on it but compilers."""
    folder.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / program.name
            if not (COMPILER.fullmatch(program.name) or link.is_symlink()):
                link.symlink_to(program)
    hidden = {"CC", "CXX", "RS4D_NO_NATIVE", "RS4D_ONNXRUNTIME_INCLUDE"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("PYTHON")}
    # The folders beside the checkout are not beside its copy.
    beside = {"RS4D_FIXTURES": ROOT / "../shared/fixtures", "RS4D_DATA": ROOT / "../shared/data"}
    return {name: str(path.resolve()) for name, path in beside.items() if path.is_dir()} | kept | {"PATH": str(folder)}


def make_interpreter(folder: Path) -> Path:
    """An environment with everything that the one running now has, but for this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("rs4d_edge", "__editable__", "__pycache__")):
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("without_compiler")
    tree = folder / "tree"
    copy_tracked(tree)
    links = Path(".ci/typing/rs4d_edge")
    for link in (ROOT / links).iterdir():
        if link.is_dir():  # tracked, but no file
            (tree / links / link.name).symlink_to(link.readlink())
    environment = hide_compilers(folder / "bin")
    python = make_interpreter(folder / "environment")
    pip = [str(python), "-m", "pip", "install", "-v", "--no-deps", "--no-index", "--no-build-isolation", "-e", "."]
    done = subprocess.run(pip, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Machine(tree, python, environment, done.stdout + done.stderr)


def test_the_install_goes_through_and_says_what_is_missing(machine: Machine) -> None:
    assert "installed without its native scan" in machine.install_log
    assert MISSING in machine.install_log
    assert machine.libraries() == []


@pytest.mark.parametrize("module", ["rs4d_edge.native.build", "rs4d_edge.runtimes.onnxruntime_scan"])
def test_asked_for_a_library_the_builders_say_why_there_is_none(machine: Machine, module: str) -> None:
    done = machine.run("-m", module)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(MISSING)


def test_every_target_is_exported_proven_and_run(machine: Machine, tmp_path: Path) -> None:
    done = machine.run("-m", "tests.house.plain_path", str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert Path(report.pop("imported_from")).is_relative_to(machine.tree)
    assert {name: each["scan"] for name, each in report.items()} == {"onnx": "function", "cpu": "plain"}
    for each in report.values():
        assert each["compared"] >= 20
        assert min(each["found"]) > 0 and each["lonely"] == [0, 0]
        assert each["score_difference"] < 1e-4
    # The export says it for OpenVINO, whose file has no native node then; for ONNX Runtime the run does, once for two.
    words = " ".join(done.stdout.split())
    assert words.count("The scan extension could not be built here: the scan is in plain operators") == 1
    assert (
        done.stderr.count(f"ONNX Runtime runs the scans through standard operators, several times slower: {MISSING}")
        == 1
    )
    assert machine.libraries() == []


@pytest.mark.slow
def test_the_quick_tests_pass(machine: Machine) -> None:
    """As a checkout of its own, so that the tests of the repository and of its wheel run too."""
    for arguments in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *arguments], cwd=machine.tree, env=machine.environment, check=True)
    itself = Path(__file__).relative_to(ROOT)
    done = machine.run("-m", "pytest", "-m", "not slow", f"--ignore={itself}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert MISSING in done.stdout, "no test was skipped for want of a compiler: there was one"
    assert machine.libraries() == []
