from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.house.repository import PACKAGE_FOLDERS, ROOT, project, tracked_files

FOLDERS = {"rs4d_edge", "export", "runtimes", "calibration", "tests", "benchmarks", ".ci"}
FILES = {
    "pyproject.toml",
    "setup.py",  # builds the native scan at install, which pyproject.toml cannot say
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    ".gitignore",
}
ALLOWED_BESIDES = {"docs"}
ENGINES = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "nncf", "coremltools"}
LONGEST_FILE = 400


def test_the_top_level_holds_what_it_should_and_nothing_else() -> None:
    top = {path.parts[0] for path in tracked_files()}
    assert top - ALLOWED_BESIDES == FOLDERS | FILES


@pytest.mark.parametrize("package", [name for name in PACKAGE_FOLDERS if "." in name])
def test_mapped_folders_are_flat(package: str) -> None:
    folder = PACKAGE_FOLDERS[package]
    assert [path for path in folder.rglob("*.py") if path.parent != folder] == []


def test_no_module_is_named_like_the_package_that_it_wraps() -> None:
    assert [path for path in tracked_files() if path.suffix == ".py" and path.stem in ENGINES] == []


def test_no_python_file_is_too_long_to_read() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in tracked_files() if path.suffix == ".py"}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_the_links_for_mypy_lead_to_the_mapped_folders() -> None:
    links = ROOT / ".ci" / "typing" / "rs4d_edge"
    mapped = {name.split(".")[1]: folder for name, folder in PACKAGE_FOLDERS.items() if "." in name}
    targets = {"__init__.py": ROOT / "rs4d_edge" / "__init__.py", **mapped}
    assert {path.name for path in links.iterdir() if path.is_symlink()} == set(targets)
    for name, target in targets.items():
        assert not Path(os.readlink(links / name)).is_absolute()
        assert (links / name).resolve() == target


def test_no_data_set_image_is_tracked() -> None:
    """Pictures are drawn by rs4d_edge.scenes; the data sets' own stay outside. docs/ may hold what the demo drew."""
    images = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
    assert [path for path in tracked_files() if path.suffix.lower() in images and path.parts[0] != "docs"] == []


def test_every_extra_of_the_device_brings_the_command_line() -> None:
    extras = project()["optional-dependencies"]
    for name in ("onnx", "openvino", "export"):
        names = {requirement.split(">")[0] for requirement in extras[name]}
        assert {"typer", "rich"} <= names, name


def test_torch_has_an_upper_bound() -> None:
    """An open range picks a newer CUDA build, gigabytes large, where the index of CPU wheels lags behind."""
    extras = project()["optional-dependencies"]
    bounds = [requirement for group in extras.values() for requirement in group if requirement.startswith("torch>")]
    assert bounds == ["torch>=2.10,<2.14"]
