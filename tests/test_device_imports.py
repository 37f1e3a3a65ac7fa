"""On a device there are numpy, OpenCV and pydantic: everything that belongs there must import and work with those."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = (
    *("torch", "torchvision", "lightning_fabric", "transformers", "safetensors", "faster_coco_eval", "pycocotools"),
    *("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "tensorrt"),
    *("typer", "rich", "yaml", "scipy", "PIL", "matplotlib"),
)
DEVICE_MODULES = (
    *("bundle", "contract", "detections", "drawing", "errors", "frames", "manifest", "masks", "predictor", "resize"),
    *("rle", "timing", "commands.predict", "runtimes.contract", "runtimes.table", "scenes"),
)

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Block())
"""


def run_blocked(program: str) -> subprocess.CompletedProcess[str]:
    source = BLOCK.format(blocked=set(BLOCKED)) + program
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("module", ["", *DEVICE_MODULES])
def test_a_device_module_imports_alone(module: str) -> None:
    name = f"rs4d_edge.{module}" if module else "rs4d_edge"
    result = run_blocked(f"import importlib; importlib.import_module({name!r})")
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    result = run_blocked("import torch")
    assert "No module named 'torch'" in result.stderr


def test_frames_are_worked_on_without_any_engine() -> None:
    program = """
import numpy as np
from rs4d_edge import Detections, ModelContract
from rs4d_edge.predictor import to_detections
from rs4d_edge.resize import FrameResizer
contract = ModelContract(image_size_hw=(64, 64), classes=("ship",), max_detections=1)
frame = np.zeros((128, 128, 3), np.uint8)
geometry = FrameResizer((64, 64))(frame, "RGB")
outputs = {
    "boxes": np.array([[[8, 8, 24, 24]]], np.float32), "scores": np.array([[0.9]], np.float32),
    "labels": np.array([[0]]), "masks": np.ones((1, 1, 28, 28), np.float32),
}
(found,) = to_detections(outputs, [geometry], contract, 0.05)
print(len(found), int(found.mask(0).sum()), found.to_coco(image_id=1)[0]["category_id"], found.draw(frame).max() > 0)
"""
    result = run_blocked(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1", "1024", "1", "True"]


def test_the_command_says_what_to_install() -> None:
    result = run_blocked("from rs4d_edge.commands.predict import main; main()")
    assert result.returncode == 1
    assert "pip install typer rich" in result.stderr and "Traceback" not in result.stderr


def test_an_engine_that_is_missing_is_named_with_its_extra() -> None:
    program = """
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.runtimes.table import open_runtime
for name in ("onnxruntime", "openvino"):
    try:
        open_runtime(name, __import__("pathlib").Path("model.onnx"), threads=None, precision="fp32")
    except RuntimeUnavailable as error:
        print(error)
"""
    result = run_blocked(program)
    assert result.returncode == 0, result.stderr
    assert "rs4d-edge[onnx]" in result.stdout and "rs4d-edge[openvino]" in result.stdout
