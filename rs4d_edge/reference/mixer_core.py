"""The core of a mixer, all that stands between in_proj and out_proj, as one differentiable operator.

Both directions with one set of weights, averaged and gated; symbols as in `mixer`, R the rank of the step sizes:

    v = SiLU(conv(u))    [dt, b, c] = v x_proj^T    delta = softplus(dt dt_proj^T + dt_bias)    s = scan(v, delta, b, c)
    y = (s_forward + s_reverse) / 2 * SiLU(z)

Shapes everywhere in this module: uz (B, L, 2E), u before z, as in_proj gives them; conv_weight (E, K); conv_bias (E,);
x_proj (R + 2N, E); dt_proj (E, R); dt_bias (E,); a (E, N), negative; d (E,); y (B, L, E).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.native.library import MixerShape, NativeScan, native_scan_or_none
from rs4d_edge.reference.depthwise import directed_conv
from rs4d_edge.reference.scan import selective_scan
from rs4d_edge.reference.scan_cuda import cuda_scan_or_none, serves_mixer

INPUTS = ("uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d")


def selected_scan(
    v: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, a: Tensor, d: Tensor, *, reverse: bool
) -> Tensor:
    """Selection and scan of one direction: v (B, L, E), the convolution's output, to s (B, L, E)."""
    rank, states = dt_proj.shape[1], a.shape[1]
    dt, b, c = functional.linear(v, x_proj).split_with_sizes([rank, states, states], dim=-1)
    delta = functional.softplus(functional.linear(dt, dt_proj, dt_bias))
    return selective_scan(v, delta, a, b, c, d, reverse=reverse)


def mixer_core_composed(
    uz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Tensor:
    """The same as `mixer_core` from torch's operators and the scan, in the dtype of the inputs."""
    u, z = uz.chunk(2, dim=-1)
    directions = []
    for reverse in (False, True):
        v = functional.silu(directed_conv(u, conv_weight[:, None], conv_bias, reverse=reverse))
        directions.append(selected_scan(v, x_proj, dt_proj, dt_bias, a, d, reverse=reverse))
    return (directions[0] + directions[1]) * (functional.silu(z) * 0.5)


def mixer_core(
    uz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Tensor:
    """The core by the fastest form for the device, differentiable, one node under torch.export.

    CPU: the native library. CUDA: its kernels around torch's matrix products. Else, and in float64, the composed form.
    bf16 and fp16 inputs are computed in fp32 on the CPU. Gradients come from running the composed form again. Returns y
    in the dtype of uz. Raises InputError for shapes that do not go together.
    """
    y: Tensor = torch.ops.rs4d.mixer_core(uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d)
    return y


@torch.library.custom_op("rs4d::mixer_core", mutates_args=())
def _core_op(
    uz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Tensor:
    inputs = (uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d)
    shape = _shape(inputs)
    if serves_mixer(uz, conv_weight, a) and (kernels := cuda_scan_or_none(uz.device)):
        return kernels.mixer_core(*inputs)
    native = native_scan_or_none() if uz.device.type == "cpu" and uz.dtype != torch.float64 else None
    with torch.no_grad():
        computed = _computed(inputs)
        y = _native_core(native, computed, shape) if native else mixer_core_composed(*computed)
    # Dense and fresh: an op may not return strides that its fake does not promise.
    return y.to(uz.dtype).contiguous()


@_core_op.register_fake
def _core_fake(
    uz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Tensor:
    shape = _shape((uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d))
    return uz.new_empty(shape.batch, shape.length, shape.channels)


def _save_for_backward(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all eight inputs by running the composed form again: the forward pass keeps its inputs alone."""
    saved: tuple[Tensor, ...] = ctx.saved_tensors
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in _computed(saved)]
        y = mixer_core_composed(*leaves)
    grads = torch.autograd.grad(y, leaves, grad_y.to(y.dtype))
    return tuple(grad.to(x.dtype) for grad, x in zip(grads, saved, strict=True))


_core_op.register_autograd(_backward, setup_context=_save_for_backward)


def _shape(inputs: tuple[Tensor, ...]) -> MixerShape:
    """The sizes, if the inputs agree on them: the native library reads by address and could not notice."""
    uz, conv_weight, _, _, dt_proj, _, a, _ = inputs
    if uz.dim() == 3 and conv_weight.dim() == dt_proj.dim() == a.dim() == 2:
        channels, taps = conv_weight.shape
        rank, states = dt_proj.shape[1], a.shape[1]
        narrow = (rank + 2 * states, channels)
        weights = [
            (channels, taps),
            (channels,),
            narrow,
            (channels, rank),
            (channels,),
            (channels, states),
            (channels,),
        ]
        if uz.shape[2] == 2 * channels and [tuple(x.shape) for x in inputs[1:]] == weights:
            return MixerShape(uz.shape[0], uz.shape[1], channels, states, rank, taps)
    given = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip(INPUTS, inputs, strict=True))
    raise InputError(
        f"mixer core: {given} do not go together; expected uz (B, L, 2E), conv_weight (E, K), conv_bias (E,), x_proj "
        "(R + 2N, E), dt_proj (E, R), dt_bias (E,), a (E, N), d (E,): pass the weights of one mixer"
    )


def _computed(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs dense and in the dtype of the computation: fp32, or fp64 when uz is."""
    dtype = torch.float64 if inputs[0].dtype == torch.float64 else torch.float32
    return tuple(x.to(dtype).contiguous() for x in inputs)


def _native_core(native: NativeScan, inputs: tuple[Tensor, ...], shape: MixerShape) -> Tensor:
    threads = torch.get_num_threads()
    y = torch.empty(shape.batch, shape.length, shape.channels)
    workspace = torch.empty(native.mixer_workspace_floats(shape, threads=threads))
    addresses = tuple(x.data_ptr() for x in inputs)
    native.mixer_core(addresses, shape, y.data_ptr(), workspace.data_ptr(), threads=threads)
    return y
