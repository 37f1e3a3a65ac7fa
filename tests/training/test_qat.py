"""Learning with the rounding of int8: its numbers, what it gains, and that a run with it is as exact as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rs4d_edge.calibration.trained_ranges import TrainedRange, read_ranges
from rs4d_edge.errors import CheckpointError, RS4DError
from rs4d_edge.reference import load
from rs4d_edge.reference.checkpoints import load_metadata, load_state
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training.batch_norms import batch_norms
from rs4d_edge.training.qat_layers import install, rounded_layers
from rs4d_edge.training.qat_rounding import RoundedTensors, round_tensor, round_weight
from rs4d_edge.training.run_state import load_run_state
from rs4d_edge.training.trainer import BEST_NAME, LAST_NAME
from tests.reference.tiny_detector import TINY, scene
from tests.training.test_trainer import CONFIG, StoppingTrainer, assert_same, trainer, weights

PLANTED = 256.0


def test_tensors_have_the_steps_of_their_type() -> None:
    x = torch.tensor([-3.0, -0.6, 0.0, 0.4, 0.6, 126.4, 400.0], requires_grad=True)
    rounded = round_tensor(x, TrainedRange(127.0, True))
    assert rounded.tolist() == [-3.0, -1.0, 0.0, 0.0, 1.0, 126.0, 127.0]
    assert round_tensor(x, TrainedRange(127.5, False)).tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 126.5, 127.5]
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.tolist() == [1.0] * 6 + [0.0]  # stopped where it is cut


def test_each_output_channel_of_weights_has_a_scale() -> None:
    weight = torch.tensor([[127.0, 0.4, -3.6], [1.27, 0.004, 0.016], [0.0, 0.0, 0.0]], requires_grad=True)
    rounded = round_weight(weight)
    assert torch.allclose(rounded, torch.tensor([[127.0, 0.0, -4.0], [1.27, 0.0, 0.02], [0.0, 0.0, 0.0]]))
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and torch.equal(weight.grad, torch.ones(3, 3))


def test_a_range_is_the_mean_of_the_runs_largest() -> None:
    tensors = RoundedTensors()
    with pytest.raises(RS4DError, match=r"'a/0' is rounded but its range was not measured"):
        tensors.pass_through("a/0", torch.ones(1))
    tensors.observe()
    for values in ([1.0, -2.0], [0.5, 4.0]):
        assert tensors.pass_through("a/0", torch.tensor(values)).tolist() == values
    tensors.pass_through("b/0", torch.tensor([0.0, 6.0]))
    tensors.settle()
    assert tensors.ranges == {"a/0": TrainedRange(3.0, True), "b/0": TrainedRange(6.0, False)}


def planted_model() -> RS4D:
    """A channel of the stem is made small and its readers' weights as much larger: exact in float, coarse in int8."""
    torch.manual_seed(0)
    model = RS4D(TINY).eval()
    norm = model.get_submodule("backbone.stem.stride4.1.1")
    with torch.no_grad():
        norm.get_parameter("weight")[0] /= PLANTED
        norm.get_parameter("bias")[0] /= PLANTED
        for reader in ("backbone.stem.stride8.0.0", "neck.lateral4.0"):
            model.get_submodule(reader).get_parameter("weight")[:, 0] *= PLANTED
    return model


def test_a_model_that_int8_harms_learns_to_bear_it() -> None:
    """The error is that of the neck's levels, against those of the float model."""
    model = planted_model()
    frame, valid_hw, _ = scene(2)

    def levels(of: RS4D) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = of.neck(of.backbone(of.normalise(frame, valid_hw)))
        return found

    with torch.no_grad():
        wanted = levels(model)
    tensors = RoundedTensors()
    install(model, tensors)
    tensors.observe()
    with torch.no_grad():
        assert all(torch.equal(*pair) for pair in zip(levels(model), wanted, strict=True))
    tensors.settle()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    errors = []
    for _ in range(20):
        error = sum(((found - want) ** 2).mean() for found, want in zip(levels(model), wanted, strict=True))
        assert isinstance(error, Tensor)
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(float(error.detach()))
    size = float(sum((want**2).mean() for want in wanted))
    assert errors[0] > 0.05 * size, "rounding harms nothing: the test shows nothing"
    assert errors[-1] < 0.5 * errors[0]


def test_a_stopped_run_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    """Weights and ranges; its files are plain float checkpoints that know their ranges."""
    whole = trainer(tmp_path, "whole", qat=True, evaluations=1)
    statistics = [norm.get_buffer("running_mean").clone() for norm in batch_norms(whole._raw)]
    assert whole.run().steps == 6
    cut = trainer(tmp_path, "cut", qat=True, evaluations=1)
    cut.__class__ = StoppingTrainer
    assert cut.run().steps == 3
    resumed = trainer(tmp_path, "cut", qat=True, evaluations=1)
    assert resumed.run(resume=True).finished
    assert_same(weights(resumed), weights(whole))
    for norm, before in zip(batch_norms(whole._raw), statistics, strict=True):
        assert torch.equal(norm.get_buffer("running_mean"), before)
    saved = [tmp_path / name / LAST_NAME for name in ("whole", "cut")]
    metadata = [load_metadata(path) for path in saved]
    ranges = [read_ranges(each) for each in metadata]
    assert ranges[0] == ranges[1] and "roi_head.bbox_head.shared_fcs.0/0" in ranges[0]
    assert ranges[0].keys() == load_run_state(tmp_path / "cut").qat_ranges.keys()
    plain = load(saved[0])
    assert {type(module).__module__ for module in plain.modules()}.isdisjoint({"rs4d_edge.training.qat_layers"})
    assert load_state(saved[0])[0].keys() == RS4D(CONFIG).state_dict().keys()


def test_what_is_evaluated_rounds(tmp_path: Path) -> None:
    differences: list[bool] = []

    def evaluate(model: RS4D) -> dict[str, Any]:
        plain = RS4D(CONFIG).eval()
        plain.load_state_dict(model.state_dict())
        image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
        with torch.no_grad():
            pair = [of.neck(of.backbone(image))[0] for of in (model, plain)]
        differences.append(bool((pair[0] - pair[1]).abs().max() > 1e-3 * pair[1].abs().max()))
        part = {"AP": 0.5, "AP50": 0.5}
        return {"images": 1, "bbox": part, "segm": part}

    trainer(tmp_path, "out", qat=True, epochs=1, evaluations=1, evaluate=evaluate).run()
    assert differences == [True]
    assert read_ranges(load_metadata(tmp_path / "out" / BEST_NAME))


def test_a_run_goes_on_with_rounding_or_without_as_it_began(tmp_path: Path) -> None:
    for began in (True, False):
        out = f"out-{began}"
        trainer(tmp_path, out, qat=began, epochs=1).run()
        with pytest.raises(CheckpointError, match="rounding") as error:
            trainer(tmp_path, out, qat=not began, epochs=1).run(resume=True)
        assert f"resume it {'with' if began else 'without'} --qat" in str(error.value)


def test_only_layers_that_may_be_int8_are_rounded() -> None:
    names = [layer.name for layer in rounded_layers(RS4D(CONFIG))]
    assert "backbone.layers.0.in_proj" in names and "neck.lateral8.1" in names
    assert not [name for name in names if "mask_head" in name or "x_proj" in name or "dt_proj" in name]
