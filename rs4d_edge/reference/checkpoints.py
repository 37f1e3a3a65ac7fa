"""Reading and writing weights: our safetensors with the configuration inside, and published `.pth` files.

Nothing is unpickled but through `torch.load(weights_only=True)`. Whatever is wrong with a file ends in one
`CheckpointError` that names the file, what was found, what was expected and what to do.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig

CONFIG_KEY = "rs4d_config"
KIND_KEY = "rs4d_kind"  # "detector" or "encoder": what the configuration describes
_COUNTER = "num_batches_tracked"  # batch norm's counter: of no use without cumulative averaging, so never required
_LISTED = 8  # names of one kind that an error message spells out

State = dict[str, Tensor]


class Configured(Protocol):
    """A model that knows its configuration: a detector or a lone encoder."""

    @property
    def config(self) -> DetectorConfig | EncoderConfig:
        """The configuration that the model was built from."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its weights by name."""
        ...


class _Ignored:
    """Stands in for what training logs put beside the weights, so that they need neither trust nor their packages."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# mmengine's runner saves its loss history into each checkpoint: a class of its own around numpy arrays.
_IGNORED_CLASSES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
)


def save_checkpoint(
    model: Configured,
    path: str | os.PathLike[str],
    extra_metadata: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write the model's weights and configuration to a safetensors file, whole or not at all; returns the path.

    `extra_metadata` (text by text: data, schedule, measured accuracy, ...) is kept beside the configuration. `half`
    stores matrices and kernels in fp16, half the size, but for what fp16 would round to infinity; norms, biases and the
    scan's own parameters stay as they are.
    """
    target = Path(path)
    kind = "encoder" if isinstance(model.config, EncoderConfig) else "detector"
    metadata = {**(extra_metadata or {}), CONFIG_KEY: model.config.model_dump_json(), KIND_KEY: kind}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        tensors = {name: _halved(name, value) for name, value in tensors.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would lock out other users of a shared folder
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _halved(name: str, value: Tensor) -> Tensor:
    fits = value.dtype == torch.float32 and value.dim() > 1 and not name.endswith("A_log")
    return value.half() if fits and bool(value.abs().max() < torch.finfo(torch.float16).max) else value


def load_state(path: str | os.PathLike[str]) -> tuple[State, DetectorConfig | EncoderConfig | None]:
    """Read weights by their published names (float32 on the CPU) and, from our own files, their configuration.

    Takes our safetensors and torch files that hold the weights bare, under `state_dict` (mmengine), or with `module.`
    before each name (distributed training). Weights of an encoder alone come without `backbone.`. Half-precision values
    are widened to float32. Raises CheckpointError.
    """
    source = _existing_file(path)
    with source.open("rb") as stream:
        head = stream.read(16)
    if head[8:9] == b"{":
        state, metadata = _read_safetensors(source)
        config = _parse_config(source, metadata)
    elif head.startswith((b"PK", b"\x80")):
        state, config = _read_torch(source), None
    else:
        raise CheckpointError(
            f"{source} begins with {head!r}: expected a safetensors file or a torch file (.pth). If it is a pointer or "
            "a web page, fetch the file itself"
        )
    return _normalised(source, state), config


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text metadata of a safetensors checkpoint, its configuration under `rs4d_config`; {} for torch files."""
    source = _existing_file(path)
    with source.open("rb") as stream:
        is_safetensors = stream.read(9)[8:] == b"{"
    return _read_safetensors(source, metadata_only=True)[1] if is_safetensors else {}


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str = "the checkpoint") -> None:
    """Copy weights into the model; every missing, unexpected and misshapen name is listed in one CheckpointError.

    A lone encoder takes the `backbone.` part of a detector's weights. The model stays as it was if anything is wrong.
    """
    expected = model.state_dict()
    if not any(name.startswith("backbone.") for name in expected):
        state = {
            name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")
        } or state
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in expected and not name.endswith(_COUNTER)]
    misshapen = [
        f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model. {'; '.join(problems)}. {_advice(expected, state)}")
    model.load_state_dict({name: value for name, value in state.items() if name in expected}, strict=False)


def _advice(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if "backbone.pos_embed" in expected and "pos_embed" in state:
        return "It holds an encoder alone: load it into the detector's `backbone`"
    return "Build the model from the configuration of that file (its metadata, or infer_config)"


def _existing_file(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder: expected a checkpoint file (.safetensors or .pth) in it")
    if not source.is_file():
        raise CheckpointError(
            f"{source} does not exist: expected a checkpoint file (.safetensors or .pth); check the path"
        )
    return source


def _damaged(source: Path, error: Exception) -> CheckpointError:
    size = source.stat().st_size
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{source} ({size} bytes) cannot be read ({reason}): expected a whole checkpoint of weights alone. "
        "If it was cut short, fetch it again; if it holds Python objects, save its state_dict alone"
    )


def _read_safetensors(source: Path, metadata_only: bool = False) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [] if metadata_only else file.keys()
            return {name: file.get_tensor(name) for name in names}, metadata
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(source, error) from error


def _parse_config(source: Path, metadata: Mapping[str, str]) -> DetectorConfig | EncoderConfig | None:
    text = metadata.get(CONFIG_KEY)
    if text is None:
        return None
    kind = EncoderConfig if metadata.get(KIND_KEY) == "encoder" else DetectorConfig
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(
            f"{source} carries a configuration that this version cannot use ({error.errors()[0]['msg']}): expected one "
            "written by save_checkpoint; use the version of rs4d-edge that wrote the file, or save it anew"
        ) from error


def _read_torch(source: Path) -> State:
    ignored: list[Any] = [(_Ignored, name) for name in _IGNORED_CLASSES]
    try:
        with torch.serialization.safe_globals(ignored):
            content: object = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise _damaged(source, error) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source} holds a {type(content).__name__}: expected weights by name, bare or under 'state_dict'"
        )
    return dict(content)


def _normalised(source: Path, state: State) -> State:
    strange = [f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        found = (
            f"{len(strange)} entries that are not tensors: {', '.join(strange[:_LISTED])}" if strange else "no entry"
        )
        raise CheckpointError(f"{source} has {found}: expected weights by name, bare or under 'state_dict'")
    for prefix in ("module.", "backbone."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
