"""Each form of a model, exported with its gate, is opened, verified and judged by the record that it carries."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rs4d_edge.bundle import open_bundle
from rs4d_edge.export.recipes import Precision, Target
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.matching import compare_detections
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.scenes import generate_scene
from rs4d_edge.verification import Outcome, verify
from tests.parity.matrix import (
    QUICK_SIZES_HW,
    SIZES_HW,
    Cell,
    all_cells,
    pairs_of,
    precisions_of,
    quick_cells,
    skip_unless_possible,
)

QUICK = quick_cells()
ROUNDING = 1e-4  # of a tensor's largest value: fp32 stays below in other orders of sums, all else is above


class Exported(NamedTuple):
    """A cell's bundle."""

    cell: Cell
    path: Path


@pytest.fixture(
    scope="module",
    params=[pytest.param(cell, id=cell.name, marks=() if cell in QUICK else pytest.mark.slow) for cell in all_cells()],
)
def exported(
    request: pytest.FixtureRequest,
    export_cell: Callable[[Cell, Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    cell: Cell = request.param
    skip_unless_possible(cell.target, cell.precision)
    path = tmp_path_factory.mktemp(cell.name) / "bundle"
    export_cell(cell, path)
    return Exported(cell, path)


def test_the_record_holds_what_was_compared_and_its_limits(exported: Exported) -> None:
    cell, manifest = exported.cell, open_bundle(exported.path).manifest
    assert (manifest.target, manifest.precision) == (cell.target.value, cell.precision.value)
    assert (manifest.contract.head, manifest.contract.image_size_hw) == (cell.head.value, cell.size_hw)
    limits, parity = TOLERANCES[cell.precision], manifest.parity
    assert parity.tolerances == limits.model_dump() and parity.frames == len(manifest.golden) == 3
    assert {each.name for each in parity.tensors} >= {"normalised", "encoder.0", "encoder.1", "neck.0", "rpn_cls.0"}
    assert all(each.max_abs_diff <= each.tolerance for each in parity.tensors)
    furthest = max(each.max_abs_diff / each.tolerance for each in parity.tensors) * limits.tensor
    assert (furthest > ROUNDING) == (cell.precision is not Precision.FP32), "it is not computed in what it is called"
    found = parity.detections
    lonely = found.reference + found.exported - 2 * found.matched - found.excused_at_the_cut
    assert found.matched >= 10 and lonely <= limits.unmatched * (found.reference + found.exported)
    assert (manifest.quantization is not None) == cell.precision.quantized


def test_the_bundle_proves_itself(exported: Exported) -> None:
    result = verify(exported.path, runtime=exported.cell.target.gate_runtime, threads=1)
    assert result.passed, result.checks
    parity = open_bundle(exported.path).manifest.parity.detections
    assert result.golden is not None and result.golden.record().reference == parity.reference
    assert result.golden.record().matched >= parity.matched - 2  # in other kernels than those of the gate
    assert [check.outcome for check in result.checks if check.what == "files"] == [Outcome.PASSED]


def test_the_predictor_finds_what_the_reference_finds_in_another_frame(
    exported: Exported, models: dict[HeadType, RS4D]
) -> None:
    cell, frame = exported.cell, generate_scene(2, (128, 100)).image
    model = models[cell.head]
    if cell.size_hw != SIZES_HW[0]:
        from rs4d_edge.export.graph import fit_model

        model = fit_model(model, cell.size_hw)
    with (
        Predictor(exported.path, runtime=cell.target.gate_runtime, threads=1) as predictor,
        Predictor(model) as reference,
    ):
        compared = compare_detections(
            reference.run(frame), predictor.run(frame), match_iou=TOLERANCES[cell.precision].match_iou
        )
    assert len(compared.matches) >= 3
    assert cell.precision is not Precision.FP32 or not compared.lonely


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(exported: Exported) -> None:
    rng = np.random.default_rng(zlib.crc32(exported.cell.name.encode()))
    listed = [file.path for file in open_bundle(exported.path).manifest.files]
    assert exported.cell.recipe.target.model_file in listed
    for name in [*listed, MANIFEST_NAME]:
        path = exported.path / name
        whole = path.read_bytes()
        place, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        result = verify(exported.path)
        path.write_bytes(whole)
        assert not result.passed and result.golden is None, (name, place, bit)
        assert path.name in result.checks[-1].found, (name, place, bit)


def test_the_quick_cells_hold_every_pair_but_head_and_size() -> None:
    wanted = set().union(*map(pairs_of, all_cells()))
    assert set().union(*map(pairs_of, QUICK)) == wanted
    for precision, target in ((p, t) for t in Target for p in precisions_of(t)):
        assert any((cell.precision, cell.target) == (precision, target) for cell in QUICK)
    for head, precision in itertools.product(HeadType, {cell.precision for cell in all_cells()}):
        assert any((cell.head, cell.precision) == (head, precision) for cell in QUICK)
    assert {cell.size_hw for cell in QUICK} == set(SIZES_HW)
    assert set(QUICK_SIZES_HW) == set(HeadType)
    assert len(QUICK) < len(all_cells()) / 2


def test_every_target_is_in_the_matrix() -> None:
    assert {cell.target for cell in all_cells()} == set(Target)
    assert {cell.precision for cell in all_cells()} == set(Precision)
    assert all(Precision.FP32 in precisions_of(target) for target in Target)
