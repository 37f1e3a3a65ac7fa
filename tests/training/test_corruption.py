"""Noise and hidden patches: as strong as asked for, only on the picture, the same however a batch is cut."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.training.corruption import Levels, corrupt, spread_levels

SIDE = 64
FULL = torch.tensor([[SIDE, SIDE]])


def spoiled(noise: float, mask: float, *, seed: int = 1, patch_px: int = 16) -> torch.Tensor:
    return corrupt(torch.ones(1, 3, SIDE, SIDE), FULL, Levels(noise, mask), [seed], patch_px=patch_px)


def test_no_level_no_change_and_the_original_stays() -> None:
    image = torch.randn(1, 3, SIDE, SIDE)
    kept = image.clone()
    assert torch.equal(corrupt(image, FULL, Levels(0.0, 0.0), [1], patch_px=16), kept)
    corrupt(image, FULL, Levels(0.5, 0.5), [1], patch_px=16)
    assert torch.equal(image, kept)


def test_noise_has_the_deviation_asked_for() -> None:
    difference = spoiled(0.3, 0.0) - 1
    assert float(difference.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(difference.mean())) < 0.01


@pytest.mark.parametrize(("ratio", "patches"), [(0.1, 2), (0.25, 4), (0.5, 8)])
def test_the_share_of_patches_asked_for_becomes_the_mean_colour(ratio: float, patches: int) -> None:
    hidden = (spoiled(0.0, ratio) == 0).all(dim=1)[0]
    cells = hidden.view(4, 16, 4, 16).permute(0, 2, 1, 3).flatten(2)
    assert int(cells.all(dim=2).sum()) == patches
    assert int(cells.any(dim=2).sum()) == patches


def test_padding_stays_zero_and_counts_for_nothing() -> None:
    valid_hw = torch.tensor([[33, 40]])  # three by three patches touch the picture
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[:, :, :33, :40] = 1.0
    result = corrupt(image, valid_hw, Levels(0.2, 0.5), [3], patch_px=16)
    assert float(result[:, :, 33:].abs().max()) == 0.0
    assert float(result[:, :, :, 40:].abs().max()) == 0.0
    hidden = (result[0] == 0).all(dim=0)[:33, :40]
    assert sum(bool(hidden[16 * i, 16 * j]) for i in range(3) for j in range(3)) == round(0.5 * 9)


def test_a_sample_depends_on_its_seed_alone() -> None:
    images, valid_hw = torch.randn(3, 3, SIDE, SIDE), FULL.expand(3, 2)
    levels = Levels(0.2, 0.3)
    together = corrupt(images, valid_hw, levels, [4, 5, 6], patch_px=16)
    alone = corrupt(images[1:2], FULL, levels, [5], patch_px=16)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(spoiled(0.2, 0.3, seed=4), spoiled(0.2, 0.3, seed=5))


def test_spread_levels_lie_evenly_below_the_levels() -> None:
    drawn = [spread_levels(Levels(0.2, 0.4), seed) for seed in range(400)]
    for values, level in ((sorted(d.noise for d in drawn), 0.2), (sorted(d.mask for d in drawn), 0.4)):
        assert 0 <= values[0] < 0.05 * level
        assert 0.95 * level < values[-1] <= level
        assert values[200] == pytest.approx(level / 2, rel=0.15)
    images, valid_hw = torch.ones(2, 3, SIDE, SIDE), FULL.expand(2, 2)
    spread = corrupt(images, valid_hw, Levels(0.2, 0.0), [4, 5], patch_px=16, spread=True)
    for image, seed in zip(spread, (4, 5), strict=True):
        own = spread_levels(Levels(0.2, 0.0), seed)
        assert torch.equal(image, corrupt(images[:1], FULL, own, [seed], patch_px=16)[0])


def test_one_level_does_not_move_the_other_s_draw() -> None:
    assert torch.equal(spoiled(0.0, 0.3) == 0, spoiled(0.4, 0.3) == 0)
    both, noise = spoiled(0.2, 0.3), spoiled(0.2, 0.0)
    assert torch.equal(both[both != 0], noise[both != 0])


def test_patches_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(InputError, match="24 px do not divide"):
        spoiled(0.0, 0.1, patch_px=24)
