"""SAM's encoder as a teacher, in the shape of Hugging Face's, small and with random weights."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.training.distill_settings import LossWeights, parse_corruption
from rs4d_edge.training.sam_teacher import SamTeacher, open_sam_teacher
from rs4d_edge.training.teachers import Preprocessing, normalise, normalised_channels, open_teacher
from rs4d_edge.training.trainer import METRICS_NAME
from tests.training.tiny_distillation import distiller, one_thread, write_pictures

SIDE = 64
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "output_channels": 8,
    "window_size": 2,
    "global_attn_indexes": [1, 3],
    "mlp_dim": 16,
    "num_pos_feats": 4,
}


def transformers() -> Any:
    return importlib.import_module("transformers")


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    model = transformers().SamVisionModel(transformers().SamVisionConfig(**SHAPE))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole_folder(vision_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SAM around the same encoder, with its preprocessor's values."""
    folder, library = tmp_path_factory.mktemp("whole"), transformers()
    prompt = library.SamPromptEncoderConfig(hidden_size=8, image_size=SIDE, mask_input_channels=4)
    decoder = library.SamMaskDecoderConfig(
        hidden_size=8, mlp_dim=8, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8
    )
    config = library.SamConfig(
        vision_config=SHAPE, prompt_encoder_config=prompt.to_dict(), mask_decoder_config=decoder.to_dict()
    )
    model = library.SamModel(config)
    state = {name.removeprefix("vision_encoder."): value for name, value in load_file(weights(vision_folder)).items()}
    model.vision_encoder.load_state_dict(state)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def processor() -> Any:
    module = importlib.import_module("transformers.models.sam.image_processing_pil_sam")
    return module.SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})


def weights(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def copied(folder: Path, target: Path, **changes: Any) -> Path:
    """The folder's weights and configuration in `target`, with changed values in the latter."""
    target.mkdir()
    (target / "model.safetensors").write_bytes(weights(folder).read_bytes())
    content = json.loads((folder / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(content))
    return target


def test_the_embedding_and_layers_are_those_of_transformers(vision_folder: Path) -> None:
    teacher = open_teacher(vision_folder)
    assert isinstance(teacher, SamTeacher)
    assert (teacher.grid_hw, teacher.channels, teacher.layer_channels, teacher.depth) == ((4, 4), 8, 16, 4)
    assert teacher.preprocessing == Preprocessing(side=SIDE, antialias=True)
    image = torch.randn(2, 3, SIDE, SIDE)
    maps = teacher.embed(image, (0, 2))
    model = transformers().SamVisionModel.from_pretrained(vision_folder)
    with torch.no_grad():
        truth = model(image, output_hidden_states=True)
    assert torch.allclose(maps[0], truth.last_hidden_state, atol=1e-6)
    for ours, number in ((maps[1], 1), (maps[2], 3)):
        assert torch.allclose(ours, normalised_channels(truth.hidden_states[number].permute(0, 3, 1, 2)), atol=1e-5)
    assert float(maps[0].std()) > 0.1
    assert not maps[0].requires_grad


def test_a_whole_sam_teaches_as_its_encoder_alone(vision_folder: Path, whole_folder: Path) -> None:
    whole, alone = open_sam_teacher(whole_folder), open_sam_teacher(vision_folder)
    assert whole.fingerprint == alone.fingerprint
    assert whole.preprocessing == alone.preprocessing  # one from its file, one from SAM's defaults: one cache
    image = torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(whole.embed(image, ())[0], alone.embed(image, ())[0])


@pytest.mark.parametrize("size_hw", [(100, 150), (40, 30), (64, 64)])
def test_the_picture_is_prepared_as_by_sam_s_processor(whole_folder: Path, size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    expected = processor()(image, return_tensors="pt")["pixel_values"]
    preprocessing = open_sam_teacher(whole_folder).preprocessing
    frame, valid_hw = preprocessing.frame(image)
    ours = normalise(torch.from_numpy(frame)[None], torch.tensor([valid_hw]), preprocessing)
    assert float((ours - expected).abs().max()) < 1.01 / 57  # one of 255 steps: two ways to round a bilinear sum
    assert float((ours - expected).abs().mean()) < 0.1 / 57


def test_other_values_of_a_preprocessor_are_followed(vision_folder: Path, tmp_path: Path) -> None:
    folder = copied(vision_folder, tmp_path / "own")
    values = {"resample": 3, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0], "size": {"longest_edge": 64}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    preprocessing = open_sam_teacher(folder).preprocessing
    assert (preprocessing.resample, preprocessing.mean_rgb) == ("bicubic", (127.5, 127.5, 127.5))
    assert preprocessing.std_rgb == (63.75, 127.5, 255.0)
    for wrong, message in (
        ({"size": {"longest_edge": 32}}, "must fill the input"),
        ({"do_rescale": False}, "scale 0..255 to 0..1"),
        ({"resample": 0}, "resamples by 0"),
    ):
        (folder / "processor_config.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=message):
            open_sam_teacher(folder)


def test_a_folder_that_holds_no_sam_is_named(vision_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"describes a 'bert'"):
        open_sam_teacher(copied(vision_folder, tmp_path / "bert", model_type="bert"))
    empty = copied(vision_folder, tmp_path / "empty")
    weights(empty).unlink()
    with pytest.raises(InputError, match=r"holds no \.safetensors"):
        open_sam_teacher(empty)
    (empty / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        open_sam_teacher(empty)


def test_weights_that_do_not_fit_are_refused(vision_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lack"):
        open_sam_teacher(copied(vision_folder, tmp_path / "deeper", num_hidden_layers=5))
    cut = copied(vision_folder, tmp_path / "cut")
    weights(cut).write_bytes(weights(cut).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_sam_teacher(cut)
    lacking = copied(vision_folder, tmp_path / "lacking")
    state = load_file(weights(lacking))
    state.pop("vision_encoder.neck.conv1.weight")
    save_file(state, weights(lacking), metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"neck\.conv1\.weight"):
        open_sam_teacher(lacking)


def test_a_student_learns_from_it(vision_folder: Path, tmp_path: Path) -> None:
    out, layers = tmp_path / "out", LossWeights(layers=0.1, layer_maps=1)
    teacher = open_teacher(vision_folder)
    options: dict[str, Any] = {"lr": 1e-2, "ema_decay": 0.8, "loss": layers, "corruption": parse_corruption("0.05:0.1")}
    run = distiller(
        write_pictures(tmp_path / "pictures"), out, teacher=teacher, epochs=80, batch=6, turns=False, **options
    )
    with one_thread():
        run.run()
    train = [json.loads(line) for line in (out / METRICS_NAME).read_text().splitlines()]
    losses = [record["l1"] for record in train if record["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
