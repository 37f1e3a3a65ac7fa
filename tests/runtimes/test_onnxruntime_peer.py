from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

pytest.importorskip("onnxruntime")

from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.runtimes.onnxruntime_peer import ImageModel
from tests.runtimes.onnx_networks import Input, image, write_network

OPEN_HW = (32, 64)


@pytest.mark.parametrize(
    ("shape", "kind", "dtype", "channels_first", "size_hw"),
    [
        ((1, 3, 40, 48), TensorProto.FLOAT, np.float32, True, (40, 48)),
        ((1, 40, 48, 3), TensorProto.UINT8, np.uint8, False, (40, 48)),
        (("batch", 3, "height", "width"), TensorProto.FLOAT16, np.float16, True, OPEN_HW),
        (("batch", "height", 48, 3), TensorProto.DOUBLE, np.float64, False, (32, 48)),
    ],
)
def test_an_image_input_is_recognised(
    tmp_path: Path, shape: tuple[Any, ...], kind: int, dtype: Any, channels_first: bool, size_hw: tuple[int, int]
) -> None:
    model = ImageModel(write_network(tmp_path / "a.onnx", image(shape, kind)), OPEN_HW, threads=1)
    assert model.input == ("images", np.dtype(dtype), channels_first, size_hw)
    model.run(np.zeros((1, 3, *size_hw) if channels_first else (1, *size_hw, 3), dtype))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([image((1, 3, 8, 8)), ("size", TensorProto.INT64, (1, 2))], "2 inputs"),
        ([image((1, 3, 8, 8), TensorProto.STRING)], "string"),
        ([image((1, 3, 8, 8), TensorProto.INT32)], "int32"),
        ([image((3, 8, 8))], "of shape [3, 8, 8]"),
        ([image((1, 1, 8, 8))], "neither the second nor the last"),
        ([image((1, "channels", 8, 8))], "colours' dimension fixed"),
        ([image((4, 3, 8, 8))], "4 images at once"),
    ],
)
def test_what_takes_no_image_is_refused(tmp_path: Path, inputs: list[Input], words: str) -> None:
    path = write_network(tmp_path / "a.onnx", *inputs)
    with pytest.raises(InputError) as raised:
        ImageModel(path, OPEN_HW)
    assert words in str(raised.value) and "a.onnx" in str(raised.value)
    assert "a peer takes one image" in str(raised.value)


def test_what_does_not_load_or_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("no graph")
    with pytest.raises(RuntimeFailure, match="cannot load"):
        ImageModel(tmp_path / "a.onnx", OPEN_HW)
    with pytest.raises(InputError, match=r"absent\.onnx"):
        ImageModel(tmp_path / "absent.onnx", OPEN_HW)
    model = ImageModel(write_network(tmp_path / "b.onnx", image((1, 3, 8, 8))), OPEN_HW, threads=1)
    with pytest.raises(RuntimeFailure, match="does not run on an image"):
        model.run(np.zeros((1, 3, 9, 8), np.float32))
    model.close()
    with pytest.raises(ClosedError):
        model.run(np.zeros((1, 3, 8, 8), np.float32))
