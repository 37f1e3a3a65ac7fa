"""Loading and launching: what the driver is asked, how a scan is spread over a GPU, and what is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import product

import pytest
import torch

from rs4d_edge.errors import InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.native.cuda_driver import CudaDriver
from rs4d_edge.native.cuda_launch import plan_scan
from rs4d_edge.native.library import ScanShape
from tests.native.cuda_emulation import Emulation


@pytest.fixture
def cuda() -> Iterator[Emulation]:
    emulation = Emulation()
    yield emulation
    assert emulation.contexts_left == 0


def test_the_device_is_described(cuda: Emulation) -> None:
    assert (cuda.driver.multiprocessors, cuda.driver.architecture) == (16, "sm_87")


def test_a_machine_without_a_driver_is_told_so() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"libnothing\.so\.9 does not load"):
        CudaDriver(0, "libnothing.so.9")


def test_a_device_that_is_not_there_is_named(cuda: Emulation) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"CUDA device 3 .*cuDeviceGet failed with 1: as the emulation says"):
        CudaDriver(3, str(cuda.library))


def test_an_unknown_kernel_is_refused(cuda: Emulation) -> None:
    with pytest.raises(RuntimeFailure, match="cuModuleGetFunction failed with 500"):
        cuda.scan.kernels.launch("rs4d_nothing", (1, 1, 1), 32, (), 0)


def test_a_refused_launch_is_an_error(cuda: Emulation) -> None:
    arguments = (ctypes.c_void_p(), ctypes.c_int())
    with pytest.raises(RuntimeFailure, match="cuLaunchKernel failed with 1"):
        cuda.scan.kernels.launch("rs4d_gate_f32", (1, 0, 1), 64, arguments, 0)


@pytest.mark.parametrize("length", [1, 31, 32, 1600, 4096, 65536])
def test_segments_cover_the_tokens_in_whole_tiles(length: int) -> None:
    for multiprocessors, channels, directions in product((1, 8, 16, 132), (1, 192, 256, 640), (1, 2)):
        for segments in (None, 1, 5, 1000):
            plan = plan_scan(ScanShape(1, length, channels, 16), directions, multiprocessors, segments=segments)
            assert plan.segment_tokens % 32 == 0
            assert (plan.segments - 1) * plan.segment_tokens < length <= plan.segments * plan.segment_tokens
            assert plan.carry_floats == directions * (plan.segments - 1) * channels * 17


def test_tokens_are_cut_only_where_the_channels_leave_most_of_the_gpu_idle() -> None:
    base, edge = ScanShape(1, 4096, 512, 16), ScanShape(1, 1600, 256, 8)
    assert plan_scan(base, 2, 16).segments == 1  # 32 blocks on a Jetson AGX Orin
    assert plan_scan(edge, 2, 8).segments == 1
    assert plan_scan(base, 2, 132).segments == 9  # 288 blocks on an H100
    assert plan_scan(base._replace(batch=8), 2, 132).segments == 1
    assert plan_scan(base._replace(length=100), 2, 132).segments == 1  # too short to be worth it


@pytest.mark.parametrize(
    ("shape", "directions", "message"),
    [
        (ScanShape(1, 10, 32, 17), 2, "17 states, compiled for 1 to 16"),
        (ScanShape(1, 10, 32, 0), 2, "0 states"),
        (ScanShape(1, 0, 32, 8), 2, "does not fit"),
        (ScanShape(40000, 10, 32, 8), 2, "does not fit"),
        (ScanShape(1, 10, 32, 8), 3, "in 3 directions"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused(shape: ScanShape, directions: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_scan(shape, directions, 16)


def test_arrays_that_do_not_go_together_are_refused(cuda: Emulation) -> None:
    """They are read by address: the kernel could not notice."""
    u, narrow, a, d = torch.zeros(1, 9, 32), torch.zeros(1, 9, 8), -torch.ones(32, 8), torch.ones(32)
    cuda.scan.scan(u, u, a, narrow, narrow, d)
    for wrong in (
        (u, u[:, 1:], a, narrow, narrow, d),
        (u, u, a, narrow[:, 1:], narrow, d),
        (u, u, a, narrow, narrow, d[1:]),
    ):
        with pytest.raises(InputError, match="do not go together"):
            cuda.scan.scan(*wrong)
