"""Frozen layers stay to the last bit, and lower layers get smaller steps."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.freezing import FrozenPart, freeze, freeze_parts, rate_scales
from rs4d_edge.training.optimizer import build_optimizer
from tests.reference.tiny_detector import TINY
from tests.training.test_trainer import settings, trainer

FROZEN_0 = ("pos_embed", "stem.", "patch_embed.")


@pytest.mark.parametrize(
    ("layers", "prefixes"),
    [(None, ()), (0, FROZEN_0), (1, (*FROZEN_0, "layers.0.")), ("all", ("",))],
)
def test_what_is_frozen(layers: int | None, prefixes: tuple[str, ...]) -> None:
    encoder = RSMamba(TINY.encoder)
    freeze(encoder, layers)
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad != name.startswith(prefixes), name


def test_more_layers_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match=r"frozen_layers 3: this encoder has 2 layers"):
        freeze(RSMamba(TINY.encoder), 3)


def test_a_run_leaves_frozen_weights_and_statistics_alone(tmp_path: Path) -> None:
    run = trainer(tmp_path, "frozen", frozen_layers=1)
    before = {name: value.clone() for name, value in run._raw.state_dict().items()}
    run.run()
    changed = {name for name, value in run._raw.state_dict().items() if not torch.equal(value, before[name])}
    still = ("backbone.stem", "backbone.patch_embed", "backbone.pos_embed", "backbone.layers.0")
    assert not any(name.startswith(still) for name in changed)
    assert any(name.startswith("neck.") for name in changed)
    assert "backbone.pre_norm.weight" in changed


def test_a_run_trains_the_heads_alone(tmp_path: Path) -> None:
    run = trainer(tmp_path, "heads", frozen_layers="all", frozen_parts=("neck", "rpn_head"))
    before = {name: value.clone() for name, value in run._raw.state_dict().items()}
    run.run()
    changed = {name for name, value in run._raw.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"roi_head"}
    assert {name.split(".")[1] for name in changed} == {"bbox_head", "mask_head"}


def test_parts_are_the_modules_of_their_names() -> None:
    for part in get_args(FrozenPart):
        model = RS4D(TINY)
        (module,) = freeze_parts(model, [part])
        still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert len(still) == len(list(module.parameters())) > 0
        assert all(part in name for name in still)


def test_rates_fall_from_the_last_layer_to_the_stem() -> None:
    encoder = RSMamba(TINY.encoder)
    scales = rate_scales(encoder, 0.5)
    first, last = encoder.layers
    assert scales[last.get_parameter("A_log")] == scales[encoder.get_parameter("ln1.weight")] == 0.5
    assert scales[first.get_parameter("A_log")] == 0.25
    assert (
        scales[encoder.get_parameter("pos_embed")]
        == scales[encoder.get_parameter("patch_embed.projection.weight")]
        == 0.125
    )
    assert rate_scales(encoder, 1.0) == {}


def test_groups_keep_their_share_of_the_rate(tmp_path: Path) -> None:
    encoder = RSMamba(TINY.encoder)
    groups = build_optimizer(encoder, settings(lr=0.1), rate_scales(encoder, 0.5)).param_groups
    assert [group["rate_scale"] for group in groups] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert sum(len(group["params"]) for group in groups) == len(list(encoder.parameters()))
    run = trainer(tmp_path, "decayed", layer_decay=0.5)
    run.run()
    rates = {group["rate_scale"]: group["lr"] for group in run._optimizer.param_groups}
    assert rates[0.5] == pytest.approx(0.5 * rates[1.0])
