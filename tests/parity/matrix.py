"""The parity matrix: every head with every target, precision and input size, from the recipes' own tables.

A new target, precision or head is in it as soon as a recipe takes it. `make test` exports the cells of `quick_cells`,
which hold every pair of values but those of head and size; `make test-all` exports all.
"""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.reference.config import HeadType
from tests.export.conftest import SIZE_HW

SIZES_HW = (SIZE_HW, (96, 64))  # the first is the tiny models' own; much smaller drawn scenes are blank
# What a recipe must be told besides precision and size. A target that wants more is to have a line here.
TARGET_OPTIONS: dict[Target, dict[str, Any]] = {Target.RTX: {"compute_capabilities": ("8.6",)}}
# To translate a model takes longer than all the rest: in `make test` once for each head.
QUICK_SIZES_HW = dict(zip(HeadType, itertools.cycle(SIZES_HW)))


class Cell(NamedTuple):
    """One export of the matrix."""

    head: HeadType
    target: Target
    precision: Precision
    size_hw: tuple[int, int]

    @property
    def name(self) -> str:
        """As in bbox-onnx-int8-64x96."""
        height, width = self.size_hw
        return f"{self.head.value}-{self.target.value}-{self.precision.value}-{height}x{width}"

    @property
    def recipe(self) -> Recipe:
        """What the export is told."""
        return recipe_of(self.target, self.precision, self.size_hw)


def recipe_of(target: Target, precision: Precision, size_hw: tuple[int, int] = SIZE_HW) -> Recipe:
    """With the least that the target must be told; ValidationError if it has no such precision."""
    options = TARGET_OPTIONS.get(target, {})
    return Recipe(target=target, precision=precision, image_size_hw=size_hw, **options)


def precisions_of(target: Target) -> list[Precision]:
    """Those that a recipe for the target takes; fp32 must be among them, or the target would be left out unseen."""
    recipe_of(target, Precision.FP32)
    found = []
    for precision in Precision:
        try:
            recipe_of(target, precision)
        except ValidationError:
            continue
        found.append(precision)
    return found


def all_cells() -> list[Cell]:
    """The full product."""
    return [
        Cell(head, target, precision, size_hw)
        for target in Target
        for precision in precisions_of(target)
        for head in HeadType
        for size_hw in SIZES_HW
    ]


def pairs_of(cell: Cell) -> set[tuple[Any, Any]]:
    """The pairs of values that an export of the cell puts together, but for head and size."""
    values = list(zip(Cell._fields, cell, strict=True))
    return {pair for pair in itertools.combinations(values, 2) if {pair[0][0], pair[1][0]} != {"head", "size_hw"}}


def quick_cells() -> list[Cell]:
    """Few cells that hold every pair, found greedily: each next one holds the most that are left."""
    candidates = [cell for cell in all_cells() if cell.size_hw == QUICK_SIZES_HW[cell.head]]
    left = set().union(*map(pairs_of, candidates))
    chosen: list[Cell] = []
    while left:
        chosen.append(max(candidates, key=lambda cell: len(left & pairs_of(cell))))
        left -= pairs_of(chosen[-1])
    return sorted(chosen, key=candidates.index)


def skip_unless_possible(target: Target, precision: Precision) -> None:
    """Skip what this machine cannot do, and say why; whatever fails in spite of it fails the test."""
    needed = [target.gate_runtime]
    needed += ["nncf"] if target is Target.CPU and precision.quantized else []
    needed += ["tensorrt_rtx"] if target is Target.RTX else []
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{target.value} {precision.value} needs the package {package}")
    if precision.rest is Precision.BF16:
        import openvino

        from rs4d_edge.runtimes.openvino_runtime import has_bf16

        if not has_bf16(openvino.Core()):
            pytest.skip(f"{target.value} {precision.value}: this processor has no bf16 instructions")
