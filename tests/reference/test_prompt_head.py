"""The prompt mask head: published keys, independence of chunks and batches, export, loss, and the fixture's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, HeadType, NeckConfig, PromptConfig
from rs4d_edge.reference.prompt_head import PromptMaskHead, prompt_mask_loss, prompt_mask_targets
from rs4d_edge.reference.sam_decoder import SharedImageEmbedding

GRID_HW = (3, 4)
ROIS = 5


def _config(channels: int = 32, neck: int = 12, *, sincos: bool = False) -> DetectorConfig:
    return DetectorConfig(
        head=HeadType.PROMPT,
        encoder=EncoderConfig(channels=channels),
        neck=NeckConfig(channels=neck),
        prompt=PromptConfig(sincos=sincos, mlp_channels=64),
    )


def _head(*, sincos: bool = False) -> PromptMaskHead:
    """A head whose BatchNorm has seen data, in inference mode."""
    head = PromptMaskHead(_config(sincos=sincos))
    norm = head.point_emb[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    nn.init.normal_(norm.running_mean)
    return head.eval()


def _inputs(images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    positions = SharedImageEmbedding(32)(GRID_HW)
    batch_index = torch.arange(ROIS) % images
    return torch.randn(ROIS, 12, 14, 14), torch.randn(images, 32, *GRID_HW), batch_index, positions


def _published_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    prefix = "roi_head.mask_head."
    shapes = {}
    for line in path.read_text().splitlines():
        name, shape = line.split(" ", 1)
        if name.startswith(prefix):
            shapes[name[len(prefix) :]] = tuple(int(side) for side in shape[1 : shape.index(")")].split(",") if side)
    return shapes


@pytest.mark.parametrize("keys", ["keys_prompt_reduced.txt", "keys_prompt_full.txt"])
def test_keys_and_shapes_are_the_published_ones(fixtures_dir: Path, keys: str) -> None:
    config = DetectorConfig(head=HeadType.PROMPT, prompt=PromptConfig())
    ours = {name: tuple(value.shape) for name, value in PromptMaskHead(config).state_dict().items()}
    assert ours == _published_shapes(fixtures_dir / keys)


def test_fixture_weights_load_and_run(fixtures_dir: Path) -> None:
    file = torch.load(fixtures_dir / "detector_prompt.fp16.pth", weights_only=True, map_location="cpu")
    state = {name: value.float() for name, value in file.get("state_dict", file).items()}
    prefix = "roi_head.mask_head."
    head = PromptMaskHead(DetectorConfig(head=HeadType.PROMPT, prompt=PromptConfig())).eval()
    head.load_state_dict({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})
    positions = SharedImageEmbedding(256)
    outer = "shared_image_embedding."
    positions.load_state_dict({n[len(outer) :]: value for n, value in state.items() if n.startswith(outer)})
    with torch.no_grad():
        logits = head(torch.randn(2, 256, 14, 14), torch.randn(1, 256, 8, 8), torch.zeros(2).long(), positions((8, 8)))
    assert logits.shape == (2, 32, 32)
    assert logits.isfinite().all()
    assert logits[0].std() > 0
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("sincos", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_chunks_do_not_change_the_masks(images: int, sincos: bool) -> None:
    head = _head(sincos=sincos)
    inputs = _inputs(images)
    with torch.no_grad():
        head.prompts_per_chunk = 0
        whole = head(*inputs)
        for chunk in (1, 2, None):
            head.prompts_per_chunk = chunk
            torch.testing.assert_close(head(*inputs), whole, atol=1e-5, rtol=1e-5)


def test_each_roi_reads_its_own_image() -> None:
    head = _head()
    features, embedding, batch_index, positions = _inputs(2)
    with torch.no_grad():
        together = head(features, embedding, batch_index, positions)
        for roi, image in enumerate(batch_index.tolist()):
            alone = head(features[[roi]], embedding[[image]], torch.zeros(1).long(), positions)
            torch.testing.assert_close(together[[roi]], alone, atol=1e-5, rtol=1e-5)


def test_export_keeps_the_masks() -> None:
    head = _head()
    head.prompts_per_chunk = 2
    inputs = _inputs(2)
    exported = torch.export.export(head, inputs, strict=False)
    torch.testing.assert_close(exported.module()(*inputs), head(*inputs), atol=1e-5, rtol=1e-5)


def test_training_step_lowers_the_loss() -> None:
    head = PromptMaskHead(_config()).train()
    inputs = _inputs(2)
    targets = torch.zeros(ROIS, 12, 16)
    targets[:, :, :8] = 1  # the left half: what the positions tell
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = prompt_mask_loss(head(*inputs), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert head.no_mask_embed.weight.grad is not None
    assert head.no_mask_embed.weight.grad.any()


def test_no_roi_gives_no_mask_and_a_zero_loss() -> None:
    head = _head()
    _, embedding, _, positions = _inputs(1)
    logits = head(torch.zeros(0, 12, 14, 14), embedding, torch.zeros(0).long(), positions)
    assert logits.shape == (0, 12, 16)
    assert float(prompt_mask_loss(logits, torch.zeros(0, 12, 16))) == 0.0


def test_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:4, 2:4] = 1
    right, empty = 20 * (target - 0.5), torch.full((1, 8, 8), -10.0)
    assert float(prompt_mask_loss(right, target)) < 1e-3
    assert float(prompt_mask_loss(empty, target)) > 0.9
    with pytest.raises(RS4DError, match="one shape"):
        prompt_mask_loss(right, target[:, :4])


def test_targets_are_covered_shares() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :2, :3] = True
    targets = prompt_mask_targets(masks, (2, 2))
    torch.testing.assert_close(targets, torch.tensor([[[6 / 16, 0.0], [0.0, 0.0]]]))


def test_refuses_a_config_without_prompt_head() -> None:
    with pytest.raises(RS4DError, match="prompt"):
        PromptMaskHead(DetectorConfig())
