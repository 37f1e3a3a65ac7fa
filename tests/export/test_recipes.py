"""What can be asked of an export."""

from __future__ import annotations

import pytest

from rs4d_edge.errors import InputError
from rs4d_edge.export.command import make_recipe
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.runtimes.table import RUNTIMES


def test_every_target_has_a_runtime_and_every_precision_tolerances() -> None:
    assert {target.runtime for target in Target} <= set(RUNTIMES)
    assert set(TOLERANCES) == set(Precision)


def test_bf16_in_onnx_runtime_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"no precision 'bf16'.*--target cpu"):
        make_recipe(Target.ONNX, Precision.BF16, (64, 64), 1)
    assert make_recipe(Target.CPU, Precision.BF16, (64, 64), 1).precision is Precision.BF16


def test_a_recipe_is_frozen() -> None:
    recipe = Recipe(target=Target.ONNX, image_size_hw=(64, 64))
    with pytest.raises(ValueError, match="frozen"):
        recipe.batch = 2  # type: ignore[misc]


@pytest.mark.parametrize("target", [Target.ONNX, Target.CPU])
def test_the_target_chooses_how_masks_are_made_and_the_recipe_may_differ(target: Target) -> None:
    recipe = Recipe(target=target, image_size_hw=(64, 64))
    assert recipe.masks_at_once == target.mask_rows
    assert [recipe.model_copy(update={"mask_rows": rows}).masks_at_once for rows in (0, 5)] == [0, 5]
    with pytest.raises(ValueError, match="mask_rows"):
        Recipe(target=target, image_size_hw=(64, 64), mask_rows=-1)
