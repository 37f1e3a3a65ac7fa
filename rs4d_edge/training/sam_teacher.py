"""The teacher of the paper: SAM's vision encoder, by Hugging Face transformers, from a local folder.

Source: Kirillov et al., "Segment Anything", 2023. The folder holds `config.json` and safetensors of a `SamVisionModel`
or of a whole `SamModel`, of any `SamVisionConfig`; nothing is downloaded and nothing is unpickled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rs4d_edge.errors import CheckpointError, InputError, RuntimeUnavailable
from rs4d_edge.training.teachers import Preprocessing, normalised_channels, weights_fingerprint

_MODEL_TYPES = ("sam", "sam_vision_model")
_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class SamTeacher:
    """SAM's image encoder; the embedding is the output of its neck (256 x 64 x 64 for the published ones)."""

    def __init__(self, model: Any, preprocessing: Preprocessing, name: str) -> None:
        config = model.config
        self._model = model.eval().requires_grad_(False)
        self.name = name
        self.preprocessing = preprocessing
        self.grid_hw = (preprocessing.side // int(config.patch_size),) * 2
        self.channels = int(config.output_channels)
        self.layer_channels = int(config.hidden_size)
        self.depth = int(config.num_hidden_layers)
        self.fingerprint = weights_fingerprint(model.state_dict(), _decisive(config.to_dict()))

    def move_to(self, device: torch.device) -> None:
        """Moves the weights."""
        self._model.to(device)

    @torch.no_grad()
    def embed(self, image: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Teacher.embed`."""
        output: Any = self._model(image, output_hidden_states=bool(layers))
        # hidden_states[0] is the input of the first layer, each (B, h, w, c)
        between = [output.hidden_states[i + 1].permute(0, 3, 1, 2) for i in layers]
        return (output.last_hidden_state.float(), *map(normalised_channels, between))


def open_sam_teacher(folder: Path) -> SamTeacher:
    """The SAM in a local folder. Raises InputError for another folder, CheckpointError for weights that do not fit."""
    content = _read_json(folder / "config.json", "the configuration of a SAM of Hugging Face's")
    if content.get("model_type") not in _MODEL_TYPES:
        raise InputError(
            f"{folder / 'config.json'} describes a {content.get('model_type')!r}: expected SAM's vision encoder or a "
            f"whole SAM (model_type {' or '.join(_MODEL_TYPES)})"
        )
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder} holds no .safetensors file: expected SAM's weights beside config.json (pickled weights are not "
            "read; convert them with save_pretrained)"
        )
    model = _load(folder)
    return SamTeacher(model, _preprocessing(folder, model), folder.resolve().name)


def _load(folder: Path) -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
        vision_model = transformers.SamVisionModel
    except ImportError as error:
        raise RuntimeUnavailable(
            f'a SAM teacher needs transformers, which does not load here ({error}): pip install "rs4d-edge[distill]"'
        ) from error

    # Of a whole SAM the decoder is left out on purpose; else each of its weights would be warned of.
    left_out = {"_keys_to_ignore_on_load_unexpected": ["mask_decoder", "prompt_encoder", "shared_image_embedding"]}
    vision_of_whole: Any = type("SamVisionModel", (vision_model,), left_out)
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would tear the command's own
    try:
        model, report = vision_of_whole.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers, safetensors and the configuration's checks each raise their own
        raise CheckpointError(f"the SAM in {folder} cannot be read: {error}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"the weights in {folder} lack {len(lacking)} values of its configuration's vision encoder: "
            f"{', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}; fetch the whole model again"
        )
    return model


def _preprocessing(folder: Path, model: Any) -> Preprocessing:
    """From the folder's preprocessor file where there is one, else SAM's own values at the encoder's input size."""
    side = model.config.image_size
    if not isinstance(side, int) or not isinstance(model.config.patch_size, int):
        raise InputError(f"the SAM in {folder} takes {side} pixels: expected one number, the side of a square")
    file = next((folder / name for name in _PREPROCESSOR_FILES if (folder / name).is_file()), None)
    if file is None:
        return Preprocessing(side=side, antialias=True)
    content = _read_json(file, "a preprocessor's values")
    content = content.get("image_processor", content)
    longest = content.get("size", {}).get("longest_edge", side)
    padded = content.get("pad_size", {})
    if {longest, padded.get("height", side), padded.get("width", side)} != {side}:
        raise InputError(
            f"{file} fits pictures to {longest} and pads them to {padded}, but the encoder takes {side}: the picture "
            "must fill the input, as in SAM, so that the teacher's grid and the student's cover it alike"
        )
    factor = content.get("rescale_factor", 1 / 255)
    if not content.get("do_rescale", True) or not content.get("do_resize", True) or abs(factor * 255 - 1) > 1e-6:
        raise InputError(f"{file} does not resize pictures and scale 0..255 to 0..1: expected SAM's preprocessing")
    if content.get("resample", 2) not in _RESAMPLE:
        raise InputError(f"{file} resamples by {content['resample']}: expected 2 (bilinear) or 3 (bicubic)")
    values: dict[str, Any] = {"side": side, "resample": _RESAMPLE[content.get("resample", 2)], "antialias": True}
    if not content.get("do_normalize", True):
        values |= {"mean_rgb": (0.0, 0.0, 0.0), "std_rgb": (255.0, 255.0, 255.0)}
    for key, name in (("image_mean", "mean_rgb"), ("image_std", "std_rgb")):
        if key in content and name not in values:
            # Rounded, so that 255 * 0.224 is SAM's own 57.12 and finds the same cache.
            values[name] = tuple(round(255 * value, 6) for value in content[key])
    return Preprocessing(**values)


def _decisive(config: dict[str, Any]) -> str:
    """The configuration without what says where and with what it was written."""
    of_its_writing = ("_name_or_path", "architectures", "dtype", "transformers_version")
    kept = {key: value for key, value in config.items() if key not in of_its_writing}
    return json.dumps(kept, sort_keys=True, default=str)


def _read_json(path: Path, meaning: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): expected {meaning}; name a folder that save_pretrained wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): expected {meaning}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}: expected {meaning}")
    return content
