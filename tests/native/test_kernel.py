"""The native kernel through its C interface, on every instruction set of this machine, against numpy in fp64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.library import NativeScan, NativeUnavailable, ScanShape, load_native_scan

Array = NDArray[np.float32]
SHAPES = [ScanShape(1, 1, 1, 1), ScanShape(2, 70, 40, 16), ScanShape(1, 65, 19, 8), ScanShape(3, 17, 130, 4),
          ScanShape(1, 30, 33, 5), ScanShape(2, 9, 16, 64)]  # fmt: skip


@pytest.fixture(params=["avx512", "avx2", "base"])
def scan(request: pytest.FixtureRequest) -> Iterator[NativeScan]:
    try:
        native = load_native_scan()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    try:
        native.select_isa(request.param)
    except RuntimeUnavailable:
        pytest.skip(f"this machine has no {request.param}")
    yield native
    native.select_isa("auto")


def make_inputs(shape: ScanShape, seed: int = 0) -> list[Array]:
    """u, delta in [1e-3, 1], a down to -64, b, c, d."""
    random = np.random.default_rng(seed)
    tokens, narrow = (shape.batch, shape.length, shape.channels), (shape.batch, shape.length, shape.states)
    inputs = [
        random.standard_normal(tokens),
        np.exp(random.uniform(np.log(1e-3), 0.0, tokens)),
        -np.exp(random.uniform(0.0, np.log(64.0), (shape.channels, shape.states))),
        random.standard_normal(narrow),
        random.standard_normal(narrow),
        random.standard_normal(shape.channels),
    ]
    return [x.astype(np.float32) for x in inputs]


def expected(inputs: list[Array] | list[NDArray[np.float64]], reverse: bool) -> NDArray[np.float64]:
    u, delta, a, b, c, d = (x.astype(np.float64) for x in inputs)
    y = np.empty_like(u)
    state = np.zeros((u.shape[0], *a.shape))
    for t in range(u.shape[1])[:: -1 if reverse else 1]:
        step = delta[:, t, :, None]
        state = np.exp(step * a) * state + step * b[:, t, None] * u[:, t, :, None]
        y[:, t] = (state * c[:, t, None]).sum(-1) + d * u[:, t]
    return y


def shape_of(inputs: list[Array]) -> ScanShape:
    batch, length, channels = inputs[0].shape
    return ScanShape(batch, length, channels, inputs[2].shape[1])


def run(scan: NativeScan, inputs: list[Array], *, reverse: bool = False, threads: int = 2) -> Array:
    shape = shape_of(inputs)
    y = np.full_like(inputs[0], np.nan)
    scan.forward(tuple(x.ctypes.data for x in inputs), shape, y.ctypes.data, reverse=reverse, threads=threads)
    return y


def run_pair(scan: NativeScan, pair: list[list[Array]], reverse: tuple[bool, bool], threads: int) -> list[Array]:
    ys = [np.full_like(inputs[0], np.nan) for inputs in pair]
    first, second = (tuple(x.ctypes.data for x in inputs) for inputs in pair)
    addresses = ys[0].ctypes.data, ys[1].ctypes.data
    scan.bidirectional((first, second), shape_of(pair[0]), addresses, reverse=reverse, threads=threads)
    return ys


def run_backward(scan: NativeScan, inputs: list[Array], grad_y: Array, *, threads: int) -> list[Array]:
    shape = shape_of(inputs)
    gradients = [np.full_like(x, np.nan) for x in inputs]
    workspace = np.full(scan.workspace_floats(shape, threads=threads), np.nan, np.float32)
    addresses = tuple(x.ctypes.data for x in inputs), tuple(x.ctypes.data for x in gradients)
    scan.backward(addresses[0], shape, grad_y.ctypes.data, addresses[1], workspace.ctypes.data, threads=threads)
    return gradients


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(scan: NativeScan, shape: ScanShape, reverse: bool) -> None:
    inputs = make_inputs(shape)
    wanted = expected(inputs, reverse)
    difference = np.abs(run(scan, inputs, reverse=reverse) - wanted).max()
    assert difference <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [*SHAPES, ScanShape(2, 40, 1100, 16)], ids=str)
def test_two_scans_at_once_are_those_two_scans(scan: NativeScan, shape: ScanShape, threads: int) -> None:
    pair = [make_inputs(shape, seed) for seed in (0, 1)]
    for reverse in ((False, True), (True, True)):
        ys = run_pair(scan, pair, reverse, threads)
        for y, inputs, backwards in zip(ys, pair, reverse, strict=True):
            np.testing.assert_array_equal(y, run(scan, inputs, reverse=backwards, threads=1))


@pytest.mark.parametrize("states", [4, 6, 8, 16])
@pytest.mark.parametrize("huge", [200.0, 1e30])
def test_a_huge_step_leaves_the_other_channels_alone(scan: NativeScan, states: int, huge: float) -> None:
    """Where one step is too large for the way without clamps, its whole block of channels takes the other one."""
    inputs = make_inputs(ScanShape(1, 50, 48, states))
    plain = run(scan, inputs)
    inputs[1][0, 20, 5] = huge
    y, wanted = run(scan, inputs), expected(inputs, False)
    np.testing.assert_array_equal(np.delete(y, 5, axis=2), np.delete(plain, 5, axis=2))
    assert np.abs(y - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_a_long_sequence_stays_exact(scan: NativeScan) -> None:
    inputs = make_inputs(ScanShape(1, 3000, 16, 16))
    wanted = expected(inputs, False)
    assert np.abs(run(scan, inputs) - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("x", [0.0, -1e-30, -1e-6, -0.01, -0.3465, -0.5, -1.0, -7.3, -20.0, -64.0, -80.0])
def test_exponential(scan: NativeScan, x: float) -> None:
    """y[1] = exp(delta * a) when u = (1, 0) and b, c, delta[0] are 1."""
    one = np.ones((1, 2, 1), np.float32)
    u, delta = (np.array([[[first], [second]]], np.float32) for first, second in ((1, 0), (1, -x)))
    y = run(scan, [u, delta, -one[0, :1], one, one, np.zeros(1, np.float32)])
    # 1e-6 of the value; far out, where nothing is left, the rounding of the product delta * a adds |x| / 2^24.
    assert y[0, 1, 0] == pytest.approx(np.exp(np.float64(np.float32(x))), rel=max(5e-7, abs(x) * 2**-23), abs=0)


@pytest.mark.parametrize("delta", [0.0, 1e-45, 1e-38, 1e4, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("decay", [-1e-30, -1.0, -64.0, -1e6, -3e38])
def test_extreme_values_give_no_nan(scan: NativeScan, delta: float, decay: float) -> None:
    inputs = make_inputs(ScanShape(1, 20, 16, 4))
    inputs[0] *= 1e-9
    inputs[1][:] = delta
    inputs[2][:] = decay
    y = run(scan, inputs)
    assert not np.isnan(y).any()
    if delta <= 1e-38:
        np.testing.assert_allclose(y, inputs[0] * inputs[5], rtol=1e-6, atol=1e-20)


def test_a_huge_step_forgets_everything_before_it(scan: NativeScan) -> None:
    inputs = make_inputs(ScanShape(1, 40, 16, 16))
    inputs[1][:, 20] = 1e6
    inputs[0][:, 20] = 0.0
    forgotten = [x[:, 20:] if x.shape[:2] == (1, 40) else x for x in inputs]
    np.testing.assert_array_equal(run(scan, inputs)[:, 20:], run(scan, [x.copy() for x in forgotten]))


def test_denormal_states_vanish_and_the_mode_is_restored(scan: NativeScan) -> None:
    inputs = make_inputs(ScanShape(1, 200, 16, 8))
    inputs[0][:, 1:] = 0.0
    inputs[1][:] = 1.0
    assert np.isfinite(run(scan, inputs, threads=1)).all()
    assert np.float32(1e-38) / np.float32(8) != 0.0  # this thread still has denormals


@pytest.mark.parametrize("shape", [ScanShape(2, 70, 200, 16), ScanShape(1, 33, 300, 3)], ids=str)
def test_threads_do_not_change_a_bit(scan: NativeScan, shape: ScanShape) -> None:
    inputs, grad_y = make_inputs(shape), make_inputs(shape, seed=1)[0]
    np.testing.assert_array_equal(run(scan, inputs, threads=1), run(scan, inputs, threads=3))
    one, three = (run_backward(scan, inputs, grad_y, threads=threads) for threads in (1, 3))
    for first, second in zip(one, three, strict=True):
        np.testing.assert_array_equal(first, second)


def test_gradients_are_the_slopes(scan: NativeScan) -> None:
    shape = ScanShape(2, 37, 21, 8)
    inputs, grad_y = make_inputs(shape), make_inputs(shape, seed=1)[0]
    directions = make_inputs(shape, seed=2)
    gradients = run_backward(scan, inputs, grad_y, threads=2)
    for index, (x, direction, gradient) in enumerate(zip(inputs, directions, gradients, strict=True)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [v.astype(np.float64) for v in inputs]
            moved[index] = x + step * direction.astype(np.float64)
            ends.append((expected(moved, False) * grad_y).sum())
        slope = (ends[0] - ends[1]) / 2e-6
        assert (gradient.astype(np.float64) * direction).sum() == pytest.approx(slope, rel=2e-5, abs=1e-3)


def test_too_many_states_are_refused(scan: NativeScan) -> None:
    inputs = make_inputs(ScanShape(1, 2, 1, 1025))
    with pytest.raises(RuntimeUnavailable, match="more states"):
        run(scan, inputs)
    with pytest.raises(RuntimeUnavailable, match="more states"):
        run_pair(scan, [inputs, inputs], (False, True), 2)


def test_an_unknown_instruction_set_is_refused(scan: NativeScan) -> None:
    with pytest.raises(RuntimeUnavailable, match="sve9"):
        scan.select_isa("sve9")
