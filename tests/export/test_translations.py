"""The operators that the exporter would not know, each alone, in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.export.graph import save_graph, translate_module
from rs4d_edge.reference.nms import nms_keep
from rs4d_edge.reference.roi_align import roi_align_op
from rs4d_edge.runtimes.table import open_runtime

RUNTIMES = ("onnxruntime", "openvino")
SIDE = 40


class Suppress(nn.Module):
    """Boxes and scores from the pixels: red and green are a corner, blue the score; all boxes are 12 pixels wide."""

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """The mask of survivors in two groups, as numbers, and how many there are beside the valid size."""
        pixels = frame.reshape(2, -1, 3).float()
        corner = pixels[..., :2] / 4
        boxes = torch.cat((corner, corner + 12), dim=-1)
        keep = nms_keep(boxes, pixels[..., 2] / 255, 0.4, 0.3, 9).long()
        return keep, keep.sum(dim=1, keepdim=True) + valid_hw


class Pool(nn.Module):
    """RoIs of every kind over a map made of the pixels."""

    rois: Tensor

    def __init__(self) -> None:
        super().__init__()
        rois = [
            (0, 0, 0, 0),  # nothing: of another level
            (8, 8, 8, 8),  # a point
            (8, 8, 8, 30),  # a line
            (4.3, 5.1, 30.7, 21.2),  # inside
            (0, 0, 40, 40),  # everything
            (-9, -9, 3, 3),  # partly outside
            (200, 200, 240, 260),  # wholly outside
            (1, 1, 1.2, 1.1),  # less than a cell
        ]
        self.register_buffer("rois", torch.tensor(rois), persistent=False)

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """The RoIs pooled from both images, and the valid size as it came."""
        feature = frame.permute(0, 3, 1, 2).float() / 255
        index = torch.arange(2).repeat_interleave(len(self.rois))
        return roi_align_op(feature, self.rois.repeat(2, 1), index, 5, 0.5), valid_hw


class Softplus(nn.Module):
    """Over arguments from -127 to 128, around and far beyond torch's threshold of 20."""

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """Plain and with another slope."""
        x = frame.float() - 127
        return functional.softplus(x), functional.softplus(x, beta=2.0) + valid_hw.sum()


def frames(side: int) -> tuple[Tensor, Tensor]:
    """Two random images and their valid sizes."""
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pixels, torch.tensor([[3, 4], [5, 6]])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("module", "side", "names"), [(Suppress(), 12, "ab"), (Pool(), SIDE, "ab"), (Softplus(), 16, "ab")]
)
def test_operator_gives_what_torch_gives(
    runtime: str, module: nn.Module, side: int, names: Sequence[str], tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    given = frames(side)
    path = save_graph(translate_module(module.eval(), given, names), tmp_path / "model.onnx")
    found = open_runtime(runtime, path, threads=1).run({"frame": given[0].numpy(), "valid_hw": given[1].numpy()})
    # OpenVINO's softplus is absolutely, not relatively exact: 2e-6 where the value is 1e-9.
    atol = 1e-5 if isinstance(module, Softplus) else 2e-6
    for name, expected in zip(names, module(*given), strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-5, atol=atol)


def test_the_cases_above_are_not_empty() -> None:
    keep, _ = Suppress()(*frames(12))
    assert 0 < keep.sum() < keep.numel()
    assert keep.sum(dim=1).tolist() == [9, 9]  # the limit holds
    pooled, _ = Pool()(*frames(SIDE))
    filled = pooled.flatten(1).abs().amax(dim=1) > 0
    assert filled.tolist() == [False, False, False, True, True, True, False, True] * 2
