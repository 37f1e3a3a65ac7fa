"""Data for the scan and the mixer's core, ordinary and extreme, and what the definition makes of them in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.nn import functional

from rs4d_edge.export.mixer_function import MIXER_OP
from rs4d_edge.export.scan_function import CHUNK
from rs4d_edge.native.library import MixerShape
from rs4d_edge.reference.mixer import depthwise_conv_reference
from rs4d_edge.reference.scan import selective_scan_reference

Array = npt.NDArray[Any]
Range = tuple[float, float]

# Few, because engines compile for each. One token; a chunk of the plain body less one, whole, and one token more;
# channels and states that fill no vector.
SHAPES = (
    MixerShape(batch=1, length=1, channels=24, states=4, rank=1, taps=4),
    MixerShape(batch=2, length=CHUNK - 1, channels=19, states=8, rank=3, taps=4),
    MixerShape(batch=1, length=CHUNK, channels=33, states=16, rank=2, taps=4),
    MixerShape(batch=2, length=CHUNK + 1, channels=7, states=5, rank=4, taps=3),
    MixerShape(batch=1, length=70, channels=40, states=8, rank=5, taps=4),
)
LONG = MixerShape(batch=1, length=2000, channels=5, states=8, rank=2, taps=4)
ANY_SHAPE = st.builds(
    MixerShape,
    batch=st.integers(1, 2),
    length=st.integers(1, 70),
    channels=st.integers(5, 40),
    states=st.sampled_from([4, 8, 16, 1, 3, 17]),
    rank=st.integers(1, 9),
    taps=st.integers(2, 4),
)
SEEDS = st.integers(0, 2**16)

ORDINARY_STEPS, NO_STEPS, DENORMAL_STEPS, HUGE_STEPS = (1e-3, 1.0), (0.0, 0.0), (1e-45, 1e-38), (1e4, 1e30)
ORDINARY_DECAY, SLOW_DECAY, ANY_DECAY = (1.0, 64.0), (1e-4, 1e-4), (1e-4, 64.0)
SMALL_SCALES = (1.0, 1e-20, 1e-40)  # the last of them denormal


class Case(NamedTuple):
    """One set of data. All magnitudes are drawn log-uniformly.

    `odd_steps` take the place of a share of the ordinary step sizes; `decay`: magnitudes of a; `scale`: of the tokens.
    """

    shape: MixerShape
    seed: int
    odd_steps: Range = ORDINARY_STEPS
    odd_share: float = 0.0
    decay: Range = ORDINARY_DECAY
    scale: float = 1.0

    @property
    def representable(self) -> bool:
        """Whether fp32 holds all that is computed, with denormals counted as zero."""
        return self.odd_steps != HUGE_STEPS or 1e-20 <= self.scale <= 30


def ordinary_cases(shapes: SearchStrategy[MixerShape]) -> SearchStrategy[Case]:
    """Step sizes in [1e-3, 1], decays down to -64."""
    return st.builds(lambda shape, seed: Case(shape, seed), shapes, SEEDS)


def all_cases(shapes: SearchStrategy[MixerShape], scales: Sequence[float]) -> SearchStrategy[Case]:
    """Any steps, decays and scales together."""
    return st.builds(
        Case,
        shapes,
        SEEDS,
        st.sampled_from([ORDINARY_STEPS, NO_STEPS, DENORMAL_STEPS, HUGE_STEPS]),
        st.sampled_from([0.25, 1.0]),
        st.sampled_from([ORDINARY_DECAY, SLOW_DECAY, ANY_DECAY]),
        st.sampled_from(scales),
    ).filter(lambda case: case.representable)


def slow_cases() -> SearchStrategy[Case]:
    """2000 tokens, all of which the state remembers; steps that differ and steps that do not."""
    steps = st.sampled_from([ORDINARY_STEPS, (1.0, 1.0)])
    return st.builds(lambda seed, odd_steps: Case(LONG, seed, odd_steps, 1.0, SLOW_DECAY), SEEDS, steps)


def make_inputs(op: str, case: Case) -> list[Array]:
    """The operation's inputs in their order, in fp32."""
    random = np.random.default_rng(case.seed)
    arrays = _mixer_inputs(random, case) if op == MIXER_OP else _scan_inputs(random, case)
    return [array.astype(np.float32) for array in arrays]


def _log_uniform(random: np.random.Generator, limits: Range, size: tuple[int, ...]) -> Array:
    if not limits[0]:
        return np.zeros(size)
    return np.exp(random.uniform(math.log(limits[0]), math.log(limits[1]), size))


def _step_sizes(random: np.random.Generator, case: Case, size: tuple[int, ...]) -> Array:
    odd = random.random(size) < case.odd_share
    return np.where(odd, _log_uniform(random, case.odd_steps, size), _log_uniform(random, ORDINARY_STEPS, size))


def _scan_inputs(random: np.random.Generator, case: Case) -> list[Array]:
    batch, length, channels, states = case.shape[:4]
    tokens, narrow = (batch, length, channels), (batch, length, states)
    return [
        random.standard_normal(tokens) * case.scale,
        _step_sizes(random, case, tokens),
        -_log_uniform(random, case.decay, (channels, states)),
        random.standard_normal(narrow),
        random.standard_normal(narrow),
        random.standard_normal(channels),
    ]


def _mixer_inputs(random: np.random.Generator, case: Case) -> list[Array]:
    """The step sizes come from their bias; the projection moves each by a factor of e or so, whatever the scale."""
    batch, length, channels, states, rank, taps = case.shape
    steps = _step_sizes(random, case, (channels,))
    # softplus(bias) = steps; for no step at all, a bias of which nothing is left.
    bias = np.where(steps > 30, steps, np.log(np.maximum(np.expm1(np.minimum(steps, 30)), 1e-300)))
    return [
        random.standard_normal((batch, length, 2 * channels)) * case.scale,
        random.standard_normal((channels, taps)) * 0.5,
        random.standard_normal(channels) * 0.1 * case.scale,
        random.standard_normal((rank + 2 * states, channels)) * channels**-0.5,
        random.standard_normal((channels, rank)) * rank**-0.5 / max(1.0, case.scale),
        bias,
        -_log_uniform(random, case.decay, (channels, states)),
        random.standard_normal(channels),
    ]


class Exact(NamedTuple):
    """An output in float64, and for each of its numbers the sum of the magnitudes of what is added up to it."""

    y: Tensor
    terms: Tensor


def exact_outputs(op: str, tensors: Sequence[Tensor]) -> list[Exact]:
    """What the definition gives, in the tensors' dtype: of the scan both directions, of the mixer's core one output."""
    if op == MIXER_OP:
        return [_exact_mixer(*tensors)]
    return [_exact_scan(*tensors, reverse=reverse) for reverse in (False, True)]


def _exact_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool) -> Exact:
    def and_magnitude(x: Tensor) -> Tensor:
        return torch.cat((x, x.abs()))

    tokens, steps, ins, outs = (and_magnitude(x) for x in (u, delta, b, c))
    both = selective_scan_reference(tokens, steps, a, ins, outs, torch.zeros_like(d), reverse=reverse)
    y, terms = both.chunk(2)
    return Exact(y + d * u, terms + (d * u).abs())


def _exact_mixer(
    uz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Exact:
    u, z = uz.chunk(2, 2)
    widths = [dt_proj.shape[1], a.shape[1], a.shape[1]]
    scans = []
    for reverse in (False, True):
        v = functional.silu(depthwise_conv_reference(u, conv_weight[:, None], conv_bias, reverse=reverse))
        dt, b, c = (v @ x_proj.t()).split_with_sizes(widths, 2)
        delta = functional.softplus(dt @ dt_proj.t() + dt_bias)
        scans.append(_exact_scan(v, delta, a, b, c, d, reverse=reverse))
    gate = functional.silu(z) / 2
    return Exact((scans[0].y + scans[1].y) * gate, (scans[0].terms + scans[1].terms) * gate.abs())
