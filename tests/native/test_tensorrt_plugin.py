"""The C++ plugins: what they plan, take, refuse and compute, compiled for the CPU. Their CUDA side runs emulated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_launch import Element, ScanArrays, launch_conv, launch_gate, launch_scan, plan_scan
from rs4d_edge.native.library import MixerShape, ScanShape
from rs4d_edge.runtimes.tensorrt_mixer_operators import MIXER_OPERATORS
from rs4d_edge.runtimes.tensorrt_operator import Operator
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES, PLUGIN_NAMESPACE, PLUGIN_VERSION
from tests.native.cuda_emulation import Emulation
from tests.native.tensorrt_plugin_build import DATA_TYPES, Harness
from tests.native.test_cuda_mixer import TYPES, expected, make_inputs, relative

FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16
# By operator: the inputs' shapes for B 2, L 70, E 48, N 5, R 3, K 4, and the output's.
SHAPES: dict[str, tuple[list[tuple[int, ...]], list[int]]] = {
    "MixerConvolution": ([(2, 70, 96), (48, 4), (48,)], [4, 70, 48]),
    "MixerScan": ([(4, 70, 48), (4, 70, 48), (4, 70, 13), (48,), (48, 5), (48,)], [4, 70, 48]),
    "MixerGate": ([(4, 70, 48), (2, 70, 96)], [2, 70, 48]),
}


@pytest.fixture
def harness() -> Iterator[Harness]:
    emulation = Emulation()
    emulation.reset()
    yield Harness()
    emulation.reset()


def types_of(operator: Operator, dtype: torch.dtype) -> list[torch.dtype]:
    """Of all inputs and of the output, where the free ones are `dtype`."""
    inputs = [FLOAT if i in operator.fp32_inputs else dtype for i in range(len(operator.inputs))]
    return [*inputs, dtype]


def test_the_operators_are_those_of_the_python_plugins(harness: Harness) -> None:
    names = [harness.symbols.harness_name(i) for i in range(len(PLUGIN_NAMES) + 1)]
    assert names == [*(name.encode() for name in PLUGIN_NAMES), None]
    for i in range(len(PLUGIN_NAMES)):
        assert harness.symbols.harness_identity(i).decode() == f"{PLUGIN_NAMESPACE} {PLUGIN_VERSION}"


def test_the_plan_is_that_of_python(harness: Harness) -> None:
    sizes = product((0, 1, 2, 32767, 32768, 65536), (0, 1, 31, 33, 1600, 4096, 70000, 2**30), (0, 1, 33, 192, 640),
                    (0, 1, 8, 9, 16, 17))  # fmt: skip
    for shape in map(ScanShape._make, sizes):
        for directions, multiprocessors in product((1, 2), (1, 8, 16, 132, 4096)):
            try:
                plan = plan_scan(shape, directions, multiprocessors)
            except InputError:
                wanted = None
            else:
                wanted = (plan.segment_tokens, plan.segments, plan.padded_states, plan.carry_floats)
            assert harness.plan(shape, directions, multiprocessors) == wanted, (shape, directions, multiprocessors)


@pytest.mark.parametrize("operator", MIXER_OPERATORS, ids=lambda operator: operator.name)
def test_shapes_and_types_are_inferred(harness: Harness, operator: Operator) -> None:
    shapes, output = SHAPES[operator.name]
    types = types_of(operator, HALF)
    assert harness.infer(operator.name, shapes, types) == (output, DATA_TYPES[HALF])
    assert output == list(operator.output_shape(shapes, lambda size: 2 * size))
    unknown = [(-1, -1, *shape[2:]) if len(shape) == 3 else shape for shape in shapes]
    assert harness.infer(operator.name, unknown, types) == ([-1, -1, 48], DATA_TYPES[HALF])


@pytest.mark.parametrize("operator", MIXER_OPERATORS, ids=lambda operator: operator.name)
def test_inputs_that_do_not_fit_are_refused_at_build_time(harness: Harness, operator: Operator) -> None:
    shapes, _ = SHAPES[operator.name]
    types = types_of(operator, FLOAT)
    assert harness.infer(operator.name, shapes[:-1], types[:-2]) is None
    once = {("MixerConvolution", 0, 0), ("MixerConvolution", 0, 1), ("MixerConvolution", 1, 1),
            ("MixerScan", 2, 2), ("MixerScan", 4, 1)}  # fmt: skip  # sizes that no other input has: B, L, K; R + 2N, N
    for i, shape in enumerate(shapes):
        assert harness.infer(operator.name, [*shapes[:i], (*shape, 1), *shapes[i + 1 :]], types) is None
        for j in range(len(shape)):
            wrong = (*shape[:j], shape[j] + 1, *shape[j + 1 :])
            taken = harness.infer(operator.name, [*shapes[:i], wrong, *shapes[i + 1 :]], types) is not None
            assert taken == ((operator.name, i, j) in once), (i, j)
    assert harness.infer(operator.name, [shapes[0][:2], *shapes[1:]], types) is None
    message = harness.logged()
    assert message.startswith(f"rs4d::{operator.name}: its inputs do not fit each other; it takes ")
    assert f"came: ({shapes[0][0]}, 70), (" in message


@pytest.mark.parametrize("operator", MIXER_OPERATORS, ids=lambda operator: operator.name)
def test_types_that_go_together_are_taken(harness: Harness, operator: Operator) -> None:
    count = len(operator.inputs)
    for dtype in (FLOAT, HALF, BFLOAT):
        types = types_of(operator, dtype)
        for i in range(count + 1):
            assert harness.takes(operator.name, i, types)
            assert not harness.takes(operator.name, i, types, layout=1)
            other = HALF if types[i] == FLOAT else FLOAT
            free = i == 0  # the first input sets the type
            assert harness.takes(operator.name, i, [*types[:i], other, *types[i + 1 :]]) == free
    assert not harness.takes(operator.name, 0, types_of(operator, torch.int8))


@pytest.mark.parametrize("channels", [24, 100, 640])
def test_the_workspace_is_enough_for_smaller_shapes_on_every_gpu(harness: Harness, channels: int) -> None:
    def shapes(batch: int, length: int) -> list[tuple[int, ...]]:
        tokens = (2 * batch, length, channels)
        return [tokens, tokens, (*tokens[:2], 40), (channels,), (channels, 12), (channels,)]

    given = harness.workspace("MixerScan", shapes(3, 50000), HALF)
    for batch, length, multiprocessors in product((1, 2, 3), (64, 1600, 49999, 50000), (4, 16, 84, 170, 4096)):
        plan = plan_scan(ScanShape(batch, length, channels, 12), 2, multiprocessors)
        assert 4 * plan.carry_floats <= given < 20 << 20
    assert harness.workspace("MixerScan", shapes(1, 100), HALF) == 0
    assert harness.workspace("MixerGate", SHAPES["MixerGate"][0], HALF) == 0


@pytest.mark.parametrize(("element", "dtype", "tolerance"), TYPES, ids=[name for name, _, _ in TYPES])
@pytest.mark.parametrize("shape", [MixerShape(2, 33, 40, 8, 5, 4), MixerShape(1, 300, 33, 12, 3, 3)], ids=str)
def test_a_core_of_plugins_computes_what_the_reference_does(
    harness: Harness, shape: MixerShape, element: Element, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = make_inputs(shape)
    uz, weight, bias, x_proj, dt_proj, dt_bias, a, d = inputs
    uz, x_proj, dt_proj = uz.to(dtype), x_proj.to(dtype), dt_proj.to(dtype)
    v, python_v, y, python_y = (torch.full((2 * shape.batch, *shape[1:3]), torch.nan, dtype=dtype) for _ in range(4))
    out, python_out = (torch.full(shape[:3], torch.nan, dtype=dtype) for _ in range(2))
    kernels, sizes = Emulation().scan.kernels, ScanShape(*shape[:4])

    assert harness.enqueue("MixerConvolution", [uz, weight, bias], v) == 0, harness.logged()
    addresses = (uz.data_ptr(), weight.data_ptr(), bias.data_ptr(), python_v.data_ptr())
    launch_conv(kernels, sizes, element, addresses, taps=shape.taps)
    assert torch.equal(v, python_v)

    narrow = v @ x_proj.t()
    dt = narrow[..., : shape.rank] @ dt_proj.t()
    scanned = [v, dt, narrow, dt_bias, a, d]
    carry = torch.full((harness.workspace("MixerScan", [tuple(x.shape) for x in scanned], dtype) // 4,), torch.nan)
    assert harness.enqueue("MixerScan", scanned, y, carry) == 0, harness.logged()
    plan = plan_scan(sizes, 2, 16)
    assert plan.segments == max(1, shape.length // 128)
    b = narrow[..., shape.rank :]
    arrays = ScanArrays(v.data_ptr(), dt.data_ptr(), a.data_ptr(), b.data_ptr(), b[..., shape.states :].data_ptr(),
                        d.data_ptr(), python_y.data_ptr(), dt_bias.data_ptr())  # fmt: skip
    own = torch.full((plan.carry_floats,), torch.nan)
    launch_scan(kernels, plan, element, arrays, narrow_row=narrow.shape[2], carry=own.data_ptr())
    assert torch.equal(y, python_y)

    assert harness.enqueue("MixerGate", [y, uz], out) == 0, harness.logged()
    launch_gate(kernels, sizes, element, (y.data_ptr(), uz.data_ptr(), python_out.data_ptr()))
    assert torch.equal(out, python_out)
    assert relative(out, expected(shape, inputs)) <= 8 * tolerance


def tensors(operator: str, dtype: torch.dtype = FLOAT) -> tuple[list[Tensor], Tensor]:
    shapes, output = SHAPES[operator]
    (found,) = (each for each in MIXER_OPERATORS if each.name == operator)
    return [torch.zeros(s, dtype=t) for s, t in zip(shapes, types_of(found, dtype), strict=False)], torch.zeros(output)


def test_what_does_not_fit_is_refused_at_run_time(harness: Harness) -> None:
    inputs, y = tensors("MixerScan")

    def given(place: int, *shape: int) -> list[Tensor]:
        return [*inputs[:place], torch.zeros(shape), *inputs[place + 1 :]]

    many_states = given(2, 4, 70, 40)
    many_states[4] = torch.zeros(48, 17)
    cases: dict[str, tuple[list[Tensor], Tensor]] = {
        "inputs do not fit each other": (given(3, 47), y),
        "compiled for 1 to 16 states": (many_states, y),
        "no room for b and c": (given(2, 4, 70, 9), y),
        "output has another shape": (inputs, y[:2]),
        "output is of another type": (inputs, y.half()),
        "an input is of another type": ([*inputs[:3], inputs[3].half(), *inputs[4:]], y),
        "compiled for fp32, fp16 and bf16": ([x.int() for x in inputs], y.int()),
    }
    for reason, (wrong, output) in cases.items():
        assert harness.enqueue("MixerScan", wrong, output) != 0, reason
        assert reason in harness.logged()
    inputs, v = tensors("MixerConvolution")
    assert harness.enqueue("MixerConvolution", [inputs[0], torch.zeros(48, 5), inputs[2]], v) != 0
    assert "compiled for 1 to 4 taps" in harness.logged()


def test_a_scan_without_its_workspace_is_refused(harness: Harness) -> None:
    tokens = torch.zeros(2, 300, 32)
    inputs = [tokens, tokens, torch.zeros(2, 300, 20), torch.zeros(32), torch.zeros(32, 8), torch.zeros(32)]
    assert harness.enqueue("MixerScan", inputs, torch.empty_like(tokens)) != 0
    assert "no workspace" in harness.logged()


def test_a_logger_that_fails_ends_nothing(harness: Harness) -> None:
    inputs, out = tensors("MixerGate")
    harness.symbols.harness_break_logger(1)
    try:
        assert harness.enqueue("MixerGate", inputs[::-1], out) != 0
    finally:
        harness.symbols.harness_break_logger(0)
    assert harness.logged() == ""
