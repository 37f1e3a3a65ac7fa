"""The selective scan of a Mamba mixer (Gu and Dao 2023, arXiv 2312.00752, algorithm 2).

For each channel e and state n, over the tokens t:

    h[t] = exp(delta[t] * a) * h[t-1] + delta[t] * b[t] * u[t]        y[t] = sum_n c[t] * h[t] + d * u[t]

A is discretised exactly, B by Euler's rule, as published. Shapes everywhere in this module: u, delta, y (B, L, E);
a (E, N), negative; b, c (B, L, N); d (E,). delta has been through softplus already.

`selective_scan` is what models call. `selective_scan_reference` is the same to be read and compared against.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rs4d_edge.native.library import NativeScan, ScanShape, load_native_scan, native_scan_or_none
from rs4d_edge.reference.scan_cuda import CudaScan, cuda_scan_or_none, serves_scan

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def selective_scan_reference(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool = False
) -> Tensor:
    """Step by step, in the dtype of the inputs: slow and plain, the oracle of every other form."""
    batch, length, channels = u.shape
    state = u.new_zeros(batch, channels, a.shape[1])
    outputs: list[Tensor] = [u.new_zeros(batch, channels)] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, t, :, None] * a)  # (B, E, N)
        state = decay * state + delta[:, t, :, None] * b[:, t, None, :] * u[:, t, :, None]
        outputs[t] = (state * c[:, t, None, :]).sum(-1) + d * u[:, t]
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(u)


def selective_scan_chunked(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool = False
) -> Tensor:
    """The scan as about 3 sqrt(L) vectorised steps: chunks side by side, the steps of a chunk in sequence.

    Exact for any delta: the chunks' final states are formed from zero, carried from chunk to chunk with the chunks'
    whole decays exp(a * sum(delta)), and the chunks run again from the states that they really start with. Nothing
    is divided by a decay, which underflows on real inputs.
    """
    batch, length, channels = u.shape
    steps = max(1, math.isqrt(length))
    chunks = -(-length // steps)

    def cut(x: Tensor) -> Tensor:  # (B, L, X) to (B, chunks, steps, X); padded tokens have delta 0 and change nothing
        ordered = x.flip(1) if reverse else x
        padded = torch.nn.functional.pad(ordered, (0, 0, 0, chunks * steps - length))
        return padded.reshape(batch, chunks, steps, x.shape[2])

    tokens = (cut(delta), cut(delta * u), cut(b))
    final, _ = _run_chunks(*tokens, a, None, u.new_zeros(batch, chunks, channels, a.shape[1]))
    decay = torch.exp(tokens[0].sum(2)[..., None] * a)  # (B, chunks, E, N)
    starts = [final.new_zeros(batch, channels, a.shape[1])]
    for k in range(chunks - 1):
        starts.append(decay[:, k] * starts[-1] + final[:, k])
    _, y = _run_chunks(*tokens, a, cut(c), torch.stack(starts, 1))
    y = y.flatten(1, 2)[:, :length]
    return (y.flip(1) if reverse else y) + d * u


def _run_chunks(
    delta: Tensor, weighted: Tensor, b: Tensor, a: Tensor, c: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run all chunks from `state` (B, chunks, E, N); `weighted` is delta * u.

    Returns the final states, and y (B, chunks, steps, E), which is empty without c.
    """
    outputs: list[Tensor] = []
    for t in range(delta.shape[2]):
        decay = torch.exp(delta[:, :, t, :, None] * a)
        state = decay * state + weighted[:, :, t, :, None] * b[:, :, t, None, :]
        if c is not None:
            outputs.append((state @ c[:, :, t, :, None]).squeeze(-1))
    return state, torch.stack(outputs, 2) if outputs else state.new_zeros(0)


def selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool = False
) -> Tensor:
    """The scan by the fastest form for the device, differentiable, one node under torch.export.

    CPU: the native library, else the chunked form. CUDA: the kernels of `scan_cuda`, else mamba_ssm where it is
    importable, else the chunked form; gradients there come from the last two.

    With `reverse` it runs from the last token to the first. bf16 and fp16 inputs are computed in fp32. Returns
    y (B, L, E) in the dtype of u.
    """
    y: Tensor = torch.ops.rs4d.selective_scan(u, delta, a, b, c, d, reverse)
    return y


@torch.library.custom_op("rs4d::selective_scan", mutates_args=())
def _scan_op(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, reverse: bool) -> Tensor:
    if (kernels := _cuda_for(u, a)) is not None:  # they read bf16 and fp16 as they are
        return kernels.scan(u, delta, a, b, c, d, reverse=reverse)
    inputs = _computed(u, delta, a, b, c, d)
    native = _native_for(u)
    y = _native_forward(native, inputs, reverse) if native else _plain_form(u.device)(*inputs, reverse)
    # Dense and fresh: an op may not return one of its inputs, nor strides that its fake does not promise.
    return y.to(u.dtype).contiguous()


@_scan_op.register_fake
def _scan_fake(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@torch.library.custom_op("rs4d::selective_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward_op(
    grad_y: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, reverse: bool
) -> Gradients:
    """Gradients by the native library, which must be there."""
    originals = (u, delta, a, b, c, d)
    inputs = _computed(*originals)
    grads = _native_backward(load_native_scan(), inputs, grad_y.float().contiguous(), reverse)
    gu, gdelta, ga, gb, gc, gd = (grad.to(x.dtype) for grad, x in zip(grads, originals, strict=True))
    return gu, gdelta, ga, gb, gc, gd


@_scan_backward_op.register_fake
def _scan_backward_fake(
    grad_y: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, reverse: bool
) -> Gradients:
    gu, gdelta, ga, gb, gc, gd = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, a, b, c, d)
    )
    return gu, gdelta, ga, gb, gc, gd


def _plain_backward(grad_y: Tensor, saved: tuple[Tensor, ...], reverse: bool) -> tuple[Tensor, ...]:
    """Gradients by running the plain form again under autograd: the forward pass need not keep any state."""
    inputs = _computed(*saved)
    with torch.enable_grad():
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        y = _plain_form(inputs[0].device)(*leaves, reverse)
        grads = torch.autograd.grad(y, leaves, grad_y.to(y.dtype))
    return tuple(grad.to(x.dtype) for grad, x in zip(grads, saved, strict=True))


def _save_for_backward(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.reverse = inputs[6]  # type: ignore[attr-defined]


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    saved: tuple[Tensor, ...] = ctx.saved_tensors
    if _native_for(saved[0]) is None:
        return (*_plain_backward(grad_y, saved, ctx.reverse), None)
    return (*torch.ops.rs4d.selective_scan_backward(grad_y, *saved, ctx.reverse), None)


_scan_op.register_autograd(_backward, setup_context=_save_for_backward)


def _native_for(u: Tensor) -> NativeScan | None:
    """The native library where it can compute this: on the CPU, in fp32."""
    return native_scan_or_none() if u.device.type == "cpu" and u.dtype != torch.float64 else None


def _cuda_for(u: Tensor, a: Tensor) -> CudaScan | None:
    """The CUDA kernels where they can compute this."""
    return cuda_scan_or_none(u.device) if u.device.type == "cuda" and serves_scan(u, a) else None


def _computed(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The inputs dense and in the dtype of the computation: fp32, or fp64 when u is."""
    dtype = torch.float64 if inputs[0].dtype == torch.float64 else torch.float32
    return tuple(x.to(dtype).contiguous() for x in inputs)


def _shape(inputs: tuple[Tensor, ...]) -> ScanShape:
    batch, length, channels = inputs[0].shape
    return ScanShape(batch, length, channels, inputs[2].shape[1])


def _addresses(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in tensors)


def _native_forward(native: NativeScan, inputs: tuple[Tensor, ...], reverse: bool) -> Tensor:
    y = torch.empty_like(inputs[0])
    threads = torch.get_num_threads()
    native.forward(_addresses(inputs), _shape(inputs), y.data_ptr(), reverse=reverse, threads=threads)
    return y


def _native_backward(native: NativeScan, inputs: tuple[Tensor, ...], grad_y: Tensor, reverse: bool) -> Gradients:
    shape, threads = _shape(inputs), torch.get_num_threads()
    workspace = torch.empty(native.workspace_floats(shape, threads=threads))
    gu, gdelta, ga, gb, gc, gd = (torch.empty_like(x) for x in inputs)
    grads = (gu, gdelta, ga, gb, gc, gd)
    native.backward(
        _addresses(inputs),
        shape,
        grad_y.data_ptr(),
        _addresses(grads),
        workspace.data_ptr(),
        reverse=reverse,
        threads=threads,
    )
    return grads


def _plain_form(device: torch.device) -> Callable[..., Tensor]:
    if device.type == "cuda" and importlib.util.find_spec("mamba_ssm") is not None:
        return _mamba_ssm_scan
    return lambda *arguments: selective_scan_chunked(*arguments[:6], reverse=arguments[6])


def _mamba_ssm_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, reverse: bool
) -> Tensor:  # pragma: no cover - needs CUDA
    """Through mamba_ssm's kernel, which wants channels before tokens and scans forward alone."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    ordered = [x.flip(1) if reverse else x for x in (u, delta, b, c)]
    u_t, delta_t, b_t, c_t = (x.transpose(1, 2).contiguous() for x in ordered)
    y: Tensor = selective_scan_fn(u_t, delta_t, a, b_t, c_t, d).transpose(1, 2)
    return y.flip(1) if reverse else y
