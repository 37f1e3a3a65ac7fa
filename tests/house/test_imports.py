"""Arrows point one way: the device library never knows torch, the reference model, calibration or export."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.repository import modules_on_disk

WORKSTATION = ("reference", "training", "evaluation", "export", "calibration")
WORKSTATION_PACKAGES = tuple(f"rs4d_edge.{name}" for name in WORKSTATION)
DEVICE_PACKAGES = ("numpy", "cv2", "pydantic")

# Which engines a runtime's module may import; each only its own.
ENGINES = {
    "rs4d_edge.runtimes.torch_runtime": {"torch"},
    "rs4d_edge.runtimes.onnxruntime_runtime": {"onnxruntime"},
    "rs4d_edge.runtimes.onnxruntime_profile": {"onnxruntime"},
    "rs4d_edge.runtimes.onnxruntime_peer": {"onnxruntime"},
    "rs4d_edge.runtimes.onnxruntime_scan": {"onnxruntime"},
    "rs4d_edge.runtimes.openvino_runtime": {"openvino"},
    "rs4d_edge.runtimes.openvino_profile": {"openvino"},
    "rs4d_edge.runtimes.openvino_scan": {"openvino"},
    "rs4d_edge.runtimes.tensorrt_cuda": {"cuda"},
    "rs4d_edge.runtimes.tensorrt_runtime": {"cuda"},  # and the library that built the engine, by the name in its record
}
ALL_ENGINES = {"torch", "onnxruntime", "openvino", "onnx", "onnxscript", "nncf", "tensorrt", "transformers", "cuda"}

# Commands are for whoever types them: those of the workstation import what they drive.
DEVICE_COMMANDS = {"rs4d_edge.commands.__init__", "rs4d_edge.commands.predict", "rs4d_edge.commands.predict_terminal"}


def _is_device(module: str) -> bool:
    if module.startswith("rs4d_edge.commands."):
        return module in DEVICE_COMMANDS
    return not module.startswith(WORKSTATION_PACKAGES)


def _imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """Full names that a file imports, with those inside functions if `lazy`, never those for type checkers alone."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.module
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from (name for stand_in in child.orelse for name in walk(stand_in))
            elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(child)

    return walk(ast.parse(path.read_text()))


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_device_library_does_not_import_the_workstation_s() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules_on_disk().items()
        if _is_device(module)
        for name in _imports(path, lazy=False)
        if _within(name, WORKSTATION_PACKAGES) and module != "rs4d_edge.runtimes.torch_runtime"
    ]
    assert wrong == []


def test_the_device_library_never_names_export_or_calibration_not_even_late() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules_on_disk().items()
        if _is_device(module)
        for name in _imports(path, lazy=True)
        if _within(name, ("rs4d_edge.export", "rs4d_edge.calibration", "rs4d_edge.training"))
    ]
    assert wrong == []


def test_each_runtime_imports_its_own_engine_alone() -> None:
    for module, path in modules_on_disk().items():
        if _is_device(module):
            engines = {name.split(".")[0] for name in _imports(path, lazy=True)} & ALL_ENGINES
            assert engines <= ENGINES.get(module, set()), module


def test_the_reference_model_knows_nothing_of_export_or_runtimes() -> None:
    forbidden = ("rs4d_edge.export", "rs4d_edge.calibration", "rs4d_edge.runtimes", "rs4d_edge.predictor")
    wrong = [
        f"{module} imports {name}"
        for module, path in modules_on_disk().items()
        if module.startswith("rs4d_edge.reference")
        for name in _imports(path, lazy=True)
        if _within(name, forbidden)
    ]
    assert wrong == []


def test_a_device_needs_three_packages_to_import_everything(tmp_path: Path) -> None:
    """In a fresh interpreter where nothing but numpy, OpenCV and pydantic can be imported."""
    optional = {*ENGINES, "rs4d_edge.commands.predict_terminal"}
    modules = [name.removesuffix(".__init__") for name in modules_on_disk() if _is_device(name)]
    wanted = sorted(name for name in modules if name not in optional)
    probe = textwrap.dedent(
        f"""
        import importlib, importlib.metadata, sys
        # Top-level names of every installed distribution, less those that the three packages themselves need.
        allowed = {{"rs4d_edge", *{DEVICE_PACKAGES!r}}}
        needed = {{"numpy", "opencv-python-headless", "pydantic", "pydantic-core", "typing-extensions",
                  "annotated-types", "typing-inspection", "rs4d-edge"}}
        banned = set()
        for top, owners in importlib.metadata.packages_distributions().items():
            if not {{owner.lower().replace("_", "-") for owner in owners}} & needed:
                banned.add(top)
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in banned - allowed:
                    raise ModuleNotFoundError(f"{{name}} is not on a device", name=name)
        sys.meta_path.insert(0, Block())
        for name in {wanted!r}:
            importlib.import_module(name)
        assert "torch" in banned and "torch" not in sys.modules
        print("imported", len({wanted!r}))
        """
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["imported", str(len(wanted))]
    assert len(wanted) > 15


@pytest.mark.parametrize(
    ("source", "lazy", "expected"),
    [
        ("import torch", False, ["torch"]),
        ("def f():\n    import torch", False, []),
        ("def f():\n    import torch", True, ["torch"]),
        ("if TYPE_CHECKING:\n    import torch", True, []),
        ("try:\n    from a import b\nexcept ImportError:\n    pass", False, ["a", "a.b"]),
    ],
)
def test_imports_are_read_from_the_source(tmp_path: Path, source: str, lazy: bool, expected: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert list(_imports(path, lazy=lazy)) == expected
