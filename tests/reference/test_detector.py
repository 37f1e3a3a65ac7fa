"""The whole detector: shapes, padding, batches, torch.export, and the published detections from the frame on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.masks import RoiMask
from rs4d_edge.reference import load
from rs4d_edge.reference.boxes import pairwise_iou
from rs4d_edge.reference.config import IMAGE_MEAN_RGB, IMAGE_STD_RGB
from rs4d_edge.reference.detector import RS4D
from tests.reference.tiny_detector import SIDE, TINY, published_numbers, scene


@pytest.fixture(scope="module")
def model() -> RS4D:
    """Random weights, scaled so that scores pass the threshold."""
    torch.manual_seed(0)
    model = RS4D(TINY).eval()
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight.mul_(50)
    return model


@torch.no_grad()
def test_shapes_order_and_padding(model: RS4D) -> None:
    frame, valid_hw, _ = scene(batch=2)
    found = model(frame, valid_hw)
    assert [tuple(part.shape) for part in found] == [(2, 10, 4), (2, 10), (2, 10), (2, 10, 28, 28)]
    assert found.labels.dtype is torch.int64
    assert (found.scores > TINY.score_threshold).any()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.labels < 3).all()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()


@torch.no_grad()
def test_two_frames_together_give_what_each_gives_alone(model: RS4D) -> None:
    frame, valid_hw, _ = scene(batch=1)
    other = torch.randint(0, 256, frame.shape, dtype=torch.uint8)
    frames, sizes = torch.cat((frame, other)), torch.cat((valid_hw, torch.tensor([[SIDE, 70]])))
    together = model(frames, sizes)
    for image in range(2):
        alone = model(frames[image : image + 1], sizes[image : image + 1])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[image : image + 1], one, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_pixels_outside_the_image_do_not_matter(model: RS4D) -> None:
    frame, valid_hw, _ = scene()
    painted = frame.clone()
    painted[:, SIDE - 8 :] = 255
    for before, after in zip(model(frame, valid_hw), model(painted, valid_hw), strict=True):
        assert torch.equal(before, after)


def test_normalisation(model: RS4D) -> None:
    frame = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    image = model.normalise(frame, torch.tensor([[20, 10]]))
    expected = [(200 - mean) / std for mean, std in zip(IMAGE_MEAN_RGB, IMAGE_STD_RGB, strict=True)]
    torch.testing.assert_close(image[0, :, 19, 9], torch.tensor(expected))
    assert not image[:, :, 20:].any()
    assert not image[:, :, :, 10:].any()


@torch.no_grad()
def test_features_end_in_what_forward_gives(model: RS4D) -> None:
    frame, valid_hw, _ = scene()
    features, found = model.features(frame, valid_hw), model(frame, valid_hw)
    for name in ("boxes", "scores", "labels", "masks"):
        torch.testing.assert_close(features[name], getattr(found, name))
    names = list(features)
    assert names.index("stem.0") < names.index("encoder.1") < names.index("neck.0") < names.index("rpn_reg.3")


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_traces_it(model: RS4D, strict: bool) -> None:
    frame, valid_hw, _ = scene()
    with torch.no_grad():
        program = torch.export.export(model, (frame, valid_hw), strict=strict)
        other = torch.randint(0, 256, frame.shape, dtype=torch.uint8)
        traced, expected = program.module()(other, valid_hw), model(other, valid_hw)
    for ours, theirs in zip(traced, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    kept = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("rs4d.")}
    assert kept == {"rs4d.mixer_core.default", "rs4d.nms_keep.default", "rs4d.roi_align.default"}


def test_what_cannot_be_used_is_named(model: RS4D) -> None:
    frame, valid_hw, _ = scene()
    with pytest.raises(InputError, match=r"expected \(batch, height, width, 3\) torch.uint8"):
        model(frame.float(), valid_hw)
    with pytest.raises(InputError, match="multiples of 16"):
        model(frame[:, :90], valid_hw)
    with pytest.raises(InputError, match=r"expected \(1, 2\) torch.int64"):
        model(frame, valid_hw.int())


def test_the_contract_is_the_configuration(model: RS4D) -> None:
    contract = model.contract
    assert contract.image_size_hw == (SIDE, SIDE)
    assert contract.classes == TINY.classes
    assert contract.output_shapes["masks"] == (1, 10, 28, 28)


@torch.no_grad()
def test_published_detections_from_the_frame_on(fixtures_dir: Path) -> None:
    """By matching; a few lie on near ties between proposals, whose order even the number of threads changes."""
    numbers = published_numbers(fixtures_dir)
    found = load(fixtures_dir / "detector_bbox.fp16.pth")(numbers["frame"], torch.tensor([[512, 512]]))
    same_label = numbers["labels"][:, None] == found.labels
    overlap = torch.where(same_label, pairwise_iou(numbers["boxes"], found.boxes[0]), torch.zeros(()))
    best, index = overlap.max(dim=1)
    matched = best > 0.95
    assert int(matched.sum()) >= 35  # of 39
    chosen = index[matched]
    torch.testing.assert_close(found.boxes[0, chosen], numbers["boxes"][matched], atol=0.5, rtol=0)
    torch.testing.assert_close(found.scores[0, chosen], numbers["scores"][matched], atol=1e-3, rtol=0)
    published = np.unpackbits(numbers["masks_packed"].numpy(), axis=-1)[..., :512].astype(bool)[matched.numpy()]
    for row, expected in zip(chosen.tolist(), published, strict=True):
        left, top, right, bottom = found.boxes[0, row].tolist()
        ours = np.zeros((512, 512), dtype=bool)
        RoiMask(found.masks[0, row].numpy(), (left, top, right, bottom), (512, 512)).render().paste(ours)
        assert (ours != expected).sum() <= 0.01 * max(expected.sum(), 200)
