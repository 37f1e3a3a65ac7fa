"""How long post-processing takes: 100 detections with masks on one frame, for both kinds of masks.

    python benchmarks/postprocess.py [--repeats 30] [--json FILE]

The network's outputs are made up (ellipses of soft edge in boxes of log-uniform side), so that no engine is needed.
Rows, in milliseconds: `post` from the outputs to `Detections`; `masks` from those to all masks at full size; `rle` from
fresh `Detections` to the COCO encoding of all masks. Both of the latter include the rendering of the masks. Each row
also counts the mask pixels that were rendered, and the result is checked against a plain computation in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge import Detections, MaskKind, ModelContract
from rs4d_edge.predictor import to_detections
from rs4d_edge.resize import Geometry, fit

COUNT = 100
WARM_UP = 3
BARS_MS = {"post": 5.0, "masks": 25.0, "rle": 25.0}
Outputs = dict[str, npt.NDArray[Any]]


def made_up_outputs(contract: ModelContract, sides: tuple[float, float], seed: int = 0) -> Outputs:
    """Outputs of a network that found `COUNT` objects, with boxes of log-uniform side between `sides` pixels."""
    rng = np.random.default_rng(seed)
    height, width = contract.image_size_hw
    rows, columns = contract.mask_size_hw
    boxes = np.zeros((1, COUNT, 4), np.float32)
    masks = np.zeros((1, COUNT, rows, columns), np.float32)
    for index in range(COUNT):
        box_h, box_w = np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1]), size=2))
        x, y = rng.uniform(0, width - box_w), rng.uniform(0, height - box_h)
        boxes[0, index] = (x, y, x + box_w, y + box_h)
        if contract.mask_kind is MaskKind.ROI:
            center, axes = (columns / 2, rows / 2), (columns * 0.42, rows * 0.42)
        else:
            scale = columns / width
            center, axes = (
                ((x + box_w / 2) * scale, (y + box_h / 2) * scale),
                (box_w * 0.42 * scale, box_h * 0.42 * scale),
            )
        grid_y, grid_x = np.mgrid[0:rows, 0:columns] + 0.5
        angle = rng.uniform(-0.4, 0.4)
        u = ((grid_x - center[0]) * np.cos(angle) + (grid_y - center[1]) * np.sin(angle)) / axes[0]
        v = ((grid_y - center[1]) * np.cos(angle) - (grid_x - center[0]) * np.sin(angle)) / axes[1]
        masks[0, index] = 1 / (1 + np.exp(np.clip((np.hypot(u, v) - 1) * 8, -50, 50)))
    scores = np.sort(rng.uniform(0.1, 1, (1, COUNT)).astype(np.float32))[:, ::-1]
    labels = rng.integers(0, len(contract.classes), (1, COUNT))
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}


def measure(call: Callable[[Any], Any], prepare: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, 95th percentile and least wall time of `call(prepare())` in milliseconds, without the preparation.

    `cpu` is the median of the processor time of all threads: what is left of the wall time on a machine without other
    work.
    """
    times, cpu_times = [], []
    for repeat in range(WARM_UP + repeats):
        argument = prepare()
        start, cpu_start = time.perf_counter(), time.process_time()
        result = call(argument)
        elapsed_ms, cpu_ms = (time.perf_counter() - start) * 1e3, (time.process_time() - cpu_start) * 1e3
        del result, argument
        if repeat >= WARM_UP:
            times.append(elapsed_ms)
            cpu_times.append(cpu_ms)
    middle, high = np.percentile(times, [50, 95])
    figures = {"p50": middle, "p95": high, "min": min(times), "cpu": np.median(cpu_times)}
    return {name: round(float(value), 3) for name, value in figures.items()}


def plain_mask(outputs: Outputs, index: int, contract: ModelContract, geometry: Geometry) -> npt.NDArray[np.float64]:
    """The probability at each pixel of the frame, computed pixel by pixel in float64 by the published rule."""
    soft = outputs["masks"][0, index].astype(np.float64)
    if contract.mask_kind is MaskKind.ROI:
        x0, y0, x1, y1 = geometry.to_frame(outputs["boxes"][0, index][None])[0].astype(np.float64)
        rows = (np.arange(geometry.frame_hw[0]) + 0.5 - y0) / (y1 - y0) * soft.shape[0] - 0.5
        columns = (np.arange(geometry.frame_hw[1]) + 0.5 - x0) / (x1 - x0) * soft.shape[1] - 0.5
        return sample(np.pad(soft, 1), rows + 1, columns + 1)
    height, width = geometry.input_hw
    full = sample(soft, *(centres(new, old) for new, old in zip((height, width), soft.shape, strict=True)))
    rows_kept, columns_kept = (
        int(side * (valid / side)) for side, valid in zip(geometry.frame_hw, geometry.valid_hw, strict=True)
    )
    part = full[:rows_kept, :columns_kept]
    return sample(part, *(centres(new, old) for new, old in zip(geometry.frame_hw, part.shape, strict=True)))


def centres(new: int, old: int) -> npt.NDArray[np.float64]:
    """Where the centres of `new` samples lie among `old` ones."""
    return np.linspace(0.5, new - 0.5, new, dtype=np.float64) * (old / new) - 0.5


def sample(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Bilinear samples at every pair of a row and a column; the edge is repeated."""
    wide = along(values.T, columns).T
    return along(wide, rows)


def along(values: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear samples of the first axis."""
    at = np.clip(at, 0, len(values) - 1)
    low = np.floor(at).astype(int)
    weight: npt.NDArray[np.float64] = (at - low)[:, None]
    samples = np.array(values[low] * (1 - weight), dtype=np.float64)
    samples += values[np.minimum(low + 1, len(values) - 1)] * weight
    return samples


def check(detections: Detections, outputs: Outputs, contract: ModelContract, geometry: Geometry) -> None:
    """Stop unless every tenth mask is the plain computation's, but for ties, and nothing got lost."""
    if len(detections) != COUNT:
        raise SystemExit(f"{len(detections)} detections came out, expected {COUNT}")
    for index in range(0, COUNT, 10):
        plain = plain_mask(outputs, index, contract, geometry)
        wrong = (detections.mask(index) != (plain >= 0.5)) & (np.abs(plain - 0.5) > 1e-5)
        if wrong.any():
            raise SystemExit(f"mask {index} differs from the plain computation in {int(wrong.sum())} pixels")


def bench(kind: MaskKind, input_side: int, frame_side: int, sides: tuple[float, float], repeats: int) -> dict[str, Any]:
    """The rows of one case."""
    contract = ModelContract(
        image_size_hw=(input_side, input_side),
        classes=tuple(f"class_{index}" for index in range(10)),
        head="prompt" if kind is MaskKind.FRAME else "bbox",
        mask_kind=kind,
        max_detections=COUNT,
    )
    geometry = fit((frame_side, frame_side), contract.image_size_hw)
    outputs = made_up_outputs(contract, sides)

    def fresh() -> Detections:
        return to_detections(outputs, [geometry], contract, contract.score_threshold)[0]

    detections = fresh()
    check(detections, outputs, contract, geometry)
    return {
        "masks": kind.value,
        "input": input_side,
        "frame": frame_side,
        "box_sides_px": list(sides),
        "rendered_pixels": sum(crop.bits.size for crop in detections.mask_crops()),
        "post_ms": measure(lambda _: fresh(), lambda: None, repeats),
        "masks_ms": measure(lambda each: each.masks(), fresh, repeats),
        "rle_ms": measure(lambda each: each.to_rle(), fresh, repeats),
    }


def main() -> None:
    """Measure all cases and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the document here")
    options = parser.parse_args()
    cases = [
        bench(kind, 1024, frame, sides, options.repeats)
        for kind in MaskKind
        for frame, sides in ((1024, (16.0, 400.0)), (1024, (200.0, 500.0)), (2048, (16.0, 400.0)))
    ]
    document = {
        "benchmark": "postprocess",
        "detections": COUNT,
        "repeats": options.repeats,
        "bars_ms": BARS_MS,
        "cases": cases,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
