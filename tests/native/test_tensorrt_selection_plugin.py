"""NMS and RoIAlign among the C++ plugins: what they take, refuse and compute, compiled for the CPU and emulated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rs4d_edge.runtimes.tensorrt_operator import Operator
from rs4d_edge.runtimes.tensorrt_selection_operators import SELECTION_OPERATORS
from tests.native.cuda_emulation import Emulation
from tests.native.tensorrt_plugin_build import DATA_TYPES, Harness
from tests.native.test_cuda_roi_align import boxes
from tests.native.test_cuda_selection import crowd
from tests.native.test_tensorrt_plugin import harness
from tests.runtimes.test_tensorrt_plugins import launched, output_of

__all__ = ["harness"]  # the fixture
FLOAT, HALF, BFLOAT, INT32 = torch.float32, torch.float16, torch.bfloat16, torch.int32
NMS, ROI_ALIGN = SELECTION_OPERATORS
BY_NAME = pytest.mark.parametrize("operator", SELECTION_OPERATORS, ids=lambda operator: operator.name)


def inputs_of(operator: Operator, dtype: torch.dtype = FLOAT) -> list[Tensor]:
    if operator is NMS:
        placed, scores = crowd(2, 3, 70)
        return [placed, scores[:, None].contiguous(), torch.tensor([9], dtype=INT32), *torch.tensor([[0.3], [0.05]])]
    feature = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [feature, boxes(16, (112, 72)), torch.tensor([0.125]), torch.arange(5.0), torch.arange(9.0)]


def shapes_of(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in tensors]


@BY_NAME
def test_shapes_and_types_are_inferred(harness: Harness, operator: Operator) -> None:
    inputs = inputs_of(operator, HALF)
    output = output_of(operator, inputs)
    types = [x.dtype for x in inputs]
    assert harness.infer(operator.name, shapes_of(inputs), types) == ([*output.shape], DATA_TYPES[output.dtype])
    unknown = [(-1, *shape[1:]) if len(shape) > 1 else shape for shape in shapes_of(inputs)]
    assert harness.infer(operator.name, unknown, types) == ([-1, *output.shape[1:]], DATA_TYPES[output.dtype])


@BY_NAME
def test_inputs_that_do_not_fit_are_refused_at_build_time(harness: Harness, operator: Operator) -> None:
    inputs = inputs_of(operator)
    shapes, types = shapes_of(inputs), [x.dtype for x in inputs]
    # Sizes that no other input has: all of the map's, the number of RoIs, of bins and of samples.
    free = {(0, axis) for axis in range(4)} | {(1, 0), (3, 0), (4, 0)} if operator is ROI_ALIGN else set()
    for i, shape in enumerate(shapes):
        assert harness.infer(operator.name, [*shapes[:i], (*shape, 1), *shapes[i + 1 :]], types) is None
        for j in range(len(shape)):
            wrong = (*shape[:j], 2 * shape[j], *shape[j + 1 :])
            taken = harness.infer(operator.name, [*shapes[:i], wrong, *shapes[i + 1 :]], types) is not None
            assert taken == ((i, j) in free), (i, j)
    assert harness.infer(operator.name, shapes[:-1], types[:-1]) is None
    assert harness.logged().startswith(f"rs4d::{operator.name}: it has another number of inputs or outputs; it takes ")


@BY_NAME
def test_types_that_go_together_are_taken(harness: Harness, operator: Operator) -> None:
    for dtype in (FLOAT,) if operator is NMS else (FLOAT, HALF, BFLOAT):
        inputs = inputs_of(operator, dtype)
        types = [*(x.dtype for x in inputs), output_of(operator, inputs).dtype]
        for i in range(len(types)):
            assert harness.takes(operator.name, i, types)
            assert not harness.takes(operator.name, i, types, layout=1)
            other = HALF if types[i] == FLOAT else FLOAT
            changes_all = i == 0 and operator is ROI_ALIGN  # the map sets the type
            assert harness.takes(operator.name, i, [*types[:i], other, *types[i + 1 :]]) == changes_all


@BY_NAME
def test_the_workspace_is_that_of_python(harness: Harness, operator: Operator) -> None:
    shapes = shapes_of(inputs_of(operator))
    assert harness.workspace(operator.name, shapes, FLOAT) == operator.workspace_bytes(shapes)
    if operator is NMS:
        large = [(80, 1000, 4), (80, 1, 1000), *shapes[2:]]
        assert harness.workspace(NMS.name, large, FLOAT) == NMS.workspace_bytes(large) == 80 * 1000 * 128


@pytest.mark.parametrize(("operator", "dtype"), [(NMS, FLOAT), (ROI_ALIGN, FLOAT), (ROI_ALIGN, HALF)])
def test_what_is_computed_is_what_python_launches(harness: Harness, operator: Operator, dtype: torch.dtype) -> None:
    inputs = inputs_of(operator, dtype)
    output = output_of(operator, inputs)
    workspace = torch.full((operator.workspace_bytes(shapes_of(inputs)) // 4,), torch.nan)
    assert harness.enqueue(operator.name, inputs, output, workspace) == 0, harness.logged()
    wanted = launched(Emulation(), operator, inputs)
    assert wanted.any() and not wanted.all() and torch.equal(output, wanted)


def test_what_does_not_fit_is_refused_at_run_time(harness: Harness) -> None:
    many = [torch.zeros(1, 4097, 4), torch.zeros(1, 1, 4097), *inputs_of(NMS)[2:]]
    assert harness.enqueue("NmsKeep", many, torch.zeros(1, 4097, dtype=INT32), torch.zeros(1)) != 0
    assert "compiled for 1 to 4096 boxes" in harness.logged()
    inputs = inputs_of(NMS)
    assert harness.enqueue("NmsKeep", inputs, output_of(NMS, inputs)) != 0
    assert "no workspace" in harness.logged()
    inputs[2] = inputs[2].float()
    assert harness.enqueue("NmsKeep", inputs, output_of(NMS, inputs)) != 0
    assert "an input is of another type" in harness.logged()
    inputs = inputs_of(ROI_ALIGN)
    inputs[1] = inputs[1][:15].contiguous()
    assert harness.enqueue("RoiAlignAdaptive", inputs, output_of(ROI_ALIGN, inputs)) != 0
    assert "as many for each image" in harness.logged()
