"""All encoders at one image size: exported, compared with the reference, timed in turns, and weighed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.encoders import OUTPUT, EncoderView, Files, PublishedEncoder, base_encoder, sample_image
from benchmarks.encoders import save_ours as export_ours
from benchmarks.encoders import save_sam as export_sam
from benchmarks.floor import floor_ms, floor_parts
from benchmarks.measuring import Timed, Times, precisions, take_turns
from benchmarks.memory import measure_in_child
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime

OURS, ORT, SAM, PUBLISHED = "rs4d openvino", "rs4d onnxruntime", "sam openvino", "published torch"
SLOW_RUNS = 1  # of SAM at sizes where one run takes minutes


@dataclass(frozen=True)
class Settings:
    """How much is measured. `depth` and `sam_layers` None: the whole encoders."""

    threads: int
    runs: int
    published_size: int
    published_runs: int
    slow_size: int
    depth: int | None = None
    sam_layers: int = 12


@dataclass
class SizeResult:
    """What was measured at one size. Names are `OURS`, `ORT`, `SAM` or `PUBLISHED` and the precision."""

    size: int
    tokens: int
    sam_by_heads: bool
    times: dict[str, Times] = field(default_factory=dict)
    floor_ms: dict[str, float] = field(default_factory=dict)
    floor_parts: dict[str, dict[str, float]] = field(default_factory=dict)
    relative_error: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, int] | None] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "size": self.size,
            "tokens": self.tokens,
            "sam_attention": "one head at a time" if self.sam_by_heads else "all heads at once",
            "times": {name: times._asdict() for name, times in self.times.items()},
            "floor_ms": self.floor_ms,
            "floor_parts_ms": self.floor_parts,
            "relative_error": self.relative_error,
            "memory": self.memory,
        }


def measure_size(size: int, settings: Settings, folder: Path) -> SizeResult:
    """Everything at `size` x `size` pixels; model files go into `folder`."""
    encoder = base_encoder(size, settings.depth)
    ours = export_ours(encoder, size, folder)
    gc.collect()
    sam, by_heads = export_sam(size, settings.sam_layers, folder)
    gc.collect()
    rows, columns = encoder.config.grid_hw
    result = SizeResult(size, rows * columns, by_heads)
    _measure_times(result, encoder, ours, sam, settings)
    gc.collect()
    _measure_memory(result, ours, sam, settings)
    return result


def _measure_times(result: SizeResult, encoder: RSMamba, ours: Files, sam: Files, settings: Settings) -> None:
    inputs, runs = sample_image(result.size), settings.runs
    opened: dict[str, Runtime] = {}
    for precision in precisions():
        opened[f"{OURS} {precision}"] = _open("openvino", ours.openvino, precision, settings)
        opened[f"{SAM} {precision}"] = _open("openvino", sam.openvino, precision, settings)
    if ours.onnx is not None:
        opened[f"{ORT} fp32"] = _open("onnxruntime", ours.onnx, "fp32", settings)
    calls = {name: _call(runtime, inputs) for name, runtime in opened.items()}
    if result.size == settings.published_size:
        calls[f"{PUBLISHED} fp32"] = _inference(PublishedEncoder(encoder).eval(), inputs)
    _check(result, encoder, inputs, calls)
    functions = {name: _timed(name, call, result.size, settings) for name, call in calls.items()}
    parts = {precision: floor_parts(encoder.config, precision, settings.threads, runs) for precision in precisions()}
    floors = {
        f"floor {precision} {part}": timed for precision, each in parts.items() for part, (timed, _) in each.items()
    }
    times = take_turns(functions | floors)
    result.times = {name: times[name] for name in functions}
    for precision, each in parts.items():
        medians = {part: times[f"floor {precision} {part}"].median_ms for part in each}
        result.floor_parts[precision] = medians
        result.floor_ms[precision] = floor_ms(each, list(medians.values()))
    for runtime in opened.values():
        runtime.close()


def _measure_memory(result: SizeResult, ours: Files, sam: Files, settings: Settings) -> None:
    for precision in precisions():
        for name, files in ((OURS, ours), (SAM, sam)):
            weighed = measure_in_child("openvino", files.openvino, precision, settings.threads)
            result.memory[f"{name} {precision}"] = weighed
    if ours.onnx is not None:
        result.memory[f"{ORT} fp32"] = measure_in_child("onnxruntime", ours.onnx, "fp32", settings.threads)
    if result.size == settings.published_size and settings.depth is None:
        result.memory[f"{PUBLISHED} fp32"] = measure_in_child("published", result.size, "fp32", settings.threads)


def _check(
    result: SizeResult, encoder: RSMamba, inputs: tuple[Tensor, Tensor], calls: dict[str, Callable[[], Tensor]]
) -> None:
    """How far each form of ours is from the torch reference, over its largest value: one run each."""
    wanted = _inference(EncoderView(encoder).eval(), inputs)()
    for name, call in calls.items():
        if not name.startswith(SAM):
            result.relative_error[name] = float((call() - wanted).abs().max() / wanted.abs().max())


def _timed(name: str, call: Callable[[], Tensor], size: int, settings: Settings) -> Timed:
    """How often it is run. The published code is warm from the check, and takes the longest."""
    if name.startswith(PUBLISHED):
        return Timed(call, settings.published_runs, warm_up=0)
    if name.startswith(SAM) and size >= settings.slow_size:
        return Timed(call, SLOW_RUNS, warm_up=1)
    return Timed(call, settings.runs)


def _open(runtime: str, model: Path, precision: str, settings: Settings) -> Runtime:
    return open_runtime(runtime, model, threads=settings.threads, precision=precision)


def _call(runtime: Runtime, inputs: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    """One run of an engine. An input that the graph does not read may be missing from it."""
    values = dict(zip(("frame", "valid_hw"), (each.numpy() for each in inputs), strict=True))
    feeds = {spec.name: values[spec.name] for spec in runtime.inputs}
    return lambda: torch.from_numpy(runtime.run(feeds)[OUTPUT])


def _inference(module: torch.nn.Module, inputs: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            output: Tensor = module(*inputs)[0]
            return output

    return call
