"""Exports of the matrix's cells: the real pipeline with its gate, on translations that all cells of a model share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.export import pipeline
from rs4d_edge.export.model_files import Written
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Recipe
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from tests.export.conftest import shared_translation, tiny_detector
from tests.parity.matrix import SIZES_HW, Cell

# By input size. With random weights and few detections some numbers of frames leave one pair too many apart in int8.
CALIBRATION_FRAMES = dict(zip(SIZES_HW, (8, 12), strict=True))


@pytest.fixture(scope="package", autouse=True)
def _one_thread(_torch_threads: None) -> Iterator[None]:
    """The models are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _stand_in_engines(written: Written, recipe: Recipe, folder: Path, *_: object) -> tuple[()]:
    """In the place of engines, which take minutes to build and which nothing here can run: two files of any bytes each.

    tests/export/test_tensorrt_export.py builds engines.
    """
    for capability in recipe.compute_capabilities:
        for suffix in ("engine", "json"):
            path = folder / f"model-sm{capability.replace('.', '')}.{suffix}"
            path.write_bytes(f"stand-in of {path.name}".encode() * 20)
    return ()


@pytest.fixture(scope="session")
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], CalibrationSet]:
    """For each input size drawn scenes as files, the first of them the golden ones: random weights find little else."""
    made = {}
    for size_hw in SIZES_HW:
        folder = tmp_path_factory.mktemp("calibration")
        for number, frame in enumerate(scene_frames(CALIBRATION_FRAMES[size_hw], size_hw)):
            assert cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        made[size_hw] = CalibrationSet(folder.name, tuple(sorted(folder.iterdir())))
    return made


@pytest.fixture(scope="session")
def models() -> dict[HeadType, RS4D]:
    """A tiny detector for each head; shared: not to be changed."""
    return {head: tiny_detector(head) for head in HeadType}


@pytest.fixture(scope="session")
def export_cell(
    calibrations: dict[tuple[int, int], CalibrationSet],
    models: dict[HeadType, RS4D],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Cell, Path], None]:
    """Exports a cell to a path."""
    cache = tmp_path_factory.mktemp("cache")

    def export(cell: Cell, out: Path) -> None:
        plan = None
        if cell.precision.needs_frames:
            plan = QuantizationPlan(calibrations[cell.size_hw], cache=cache if cell.precision.quantized else None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "translate", shared_translation)
            patch.setattr(pipeline, "_build_engines", _stand_in_engines)
            export_bundle(models[cell.head], cell.recipe, out, plan=plan, threads=1)

    return export
