"""Forms of the scan and of the mixer's core with a mistake in each, which a suite must find."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rs4d_edge.export.mixer_function import MIXER_OP
from rs4d_edge.export.scan_function import CHUNK, SCAN_OP
from tests.runtimes.scan_cases import exact_outputs
from tests.runtimes.scan_forms import Array, Form

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MISTAKES = ("clipped steps", "exact b", "bf16 state", "no skip")


def by_steps(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, mistake: str = "", memory: int = 10**6
) -> Tensor:
    """The definition in the inputs' dtype, with a mistake in it or a state that is lost after `memory` tokens."""
    state = torch.zeros(u.shape[0], *a.shape)
    outputs = []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None].clamp(max=20.0 if mistake == "clipped steps" else torch.inf)
        decay, weight = torch.exp(step * a), torch.expm1(step * a) / a if mistake == "exact b" else step
        state = decay * (state if t % memory else state * 0) + weight * b[:, t, None] * u[:, t, :, None]
        if mistake == "bf16 state":
            state = state.bfloat16().float()
        outputs.append((state * c[:, t, None]).sum(-1) + (0 if mistake == "no skip" else d * u[:, t]))
    return torch.stack(outputs, 1)


def dividing(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The usual shortcut, which looks right on easy data: running sums over the running decay, times that decay."""
    decay = torch.exp(delta.cumsum(1)[..., None] * a)
    added = delta[..., None] * b[:, :, None] * u[..., None]
    return ((decay * (added / decay).cumsum(1)) * c[:, :, None]).sum(-1) + d * u


def as_form(scan: Scan, *, turns: bool = True) -> Form:
    """A form of a scan that runs forwards alone; turned around for the other direction, or not."""

    def compute(op: str, arrays: Sequence[Array]) -> list[Array]:
        u, delta, a, b, c, d = (torch.from_numpy(array) for array in arrays)
        axis = (1,) if turns else ()
        back = scan(u.flip(axis), delta.flip(axis), a, b.flip(axis), c.flip(axis), d).flip(axis)
        return [scan(u, delta, a, b, c, d).numpy(), back.numpy()]

    return Form(compute, {}, any_shape=True)


def joined(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Carries the state from one sequence of the batch to the next."""
    shape = u.shape
    u, delta, b, c = (x.reshape(1, -1, x.shape[2]) for x in (u, delta, b, c))
    return by_steps(u, delta, a, b, c, d).reshape(shape)


def changed_mixer(position: int, change: Callable[[Tensor], Tensor]) -> Form:
    """The definition in fp32, one of its inputs changed first."""

    def compute(op: str, arrays: Sequence[Array]) -> list[Array]:
        tensors = [torch.from_numpy(array) for array in arrays]
        tensors[position] = change(tensors[position])
        return [each.y.numpy() for each in exact_outputs(op, tensors)]

    return Form(compute, {}, any_shape=True)


RIGHT = {SCAN_OP: as_form(by_steps), MIXER_OP: changed_mixer(0, torch.clone)}
WRONG = {
    (SCAN_OP, "divides by the decay"): as_form(dividing),
    (SCAN_OP, "forgets at the ends of chunks"): as_form(functools.partial(by_steps, memory=CHUNK)),
    (SCAN_OP, "joins the sequences"): as_form(joined),
    (SCAN_OP, "does not turn"): as_form(by_steps, turns=False),
    **{(SCAN_OP, name): as_form(functools.partial(by_steps, mistake=name)) for name in MISTAKES},
    (MIXER_OP, "takes z for u"): changed_mixer(0, lambda uz: uz.roll(uz.shape[2] // 2, 2)),
    (MIXER_OP, "reads the taps backwards"): changed_mixer(1, lambda weight: weight.flip(1)),
    (MIXER_OP, "forgets the bias of the convolution"): changed_mixer(2, torch.zeros_like),
    (MIXER_OP, "rounds a weight to bf16"): changed_mixer(3, lambda weight: weight.bfloat16().float()),
    (MIXER_OP, "forgets the bias of the steps"): changed_mixer(5, torch.zeros_like),
}
