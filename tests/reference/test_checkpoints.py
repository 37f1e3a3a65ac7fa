"""Checkpoints: ours, published ones in each wrapping, and files that are wrong in each way."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import CONFIG_KEY, load_into, load_metadata, load_state, save_checkpoint
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.encoder import RSMamba

TINY = EncoderConfig(channels=16, depth=2, inner_channels=32, state_size=4, image_size_hw=(32, 48))


@pytest.fixture
def encoder() -> RSMamba:
    return RSMamba(TINY)


def same(state: dict[str, Tensor], model: nn.Module) -> bool:
    expected = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_our_checkpoint_gives_weights_configuration_and_metadata(encoder: RSMamba, tmp_path: Path) -> None:
    path = save_checkpoint(encoder, tmp_path / "new" / "encoder.safetensors", {"dataset": "none"})
    state, config = load_state(path)
    assert config == TINY
    assert same(state, encoder)
    metadata = load_metadata(path)
    assert metadata["dataset"] == "none"
    assert json.loads(metadata[CONFIG_KEY])["image_size_hw"] == [32, 48]
    assert [entry.name for entry in path.parent.iterdir()] == ["encoder.safetensors"]


def test_half_a_file_loads_as_fp32_and_keeps_what_rounding_would_harm(encoder: RSMamba, tmp_path: Path) -> None:
    with torch.no_grad():
        encoder.layers[0].get_parameter("out_proj.weight")[0, 0] = 1e5  # beyond fp16
    whole, half = (save_checkpoint(encoder, tmp_path / f"{half}.safetensors", half=half) for half in (False, True))
    assert half.stat().st_size < 0.8 * whole.stat().st_size
    state, config = load_state(half)
    assert config == TINY
    for name, value in encoder.state_dict().items():
        assert state[name].dtype == torch.float32
        exact = value.dim() == 1 or name.endswith("A_log") or name == "layers.0.out_proj.weight"
        wanted = value if exact else value.half().float()
        assert torch.equal(state[name], wanted), name


def test_failed_write_leaves_the_old_file(encoder: RSMamba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(encoder, tmp_path / "encoder.safetensors")
    before = path.read_bytes()

    def fail(tensors: dict[str, Tensor], filename: str, metadata: dict[str, str]) -> None:
        Path(filename).write_bytes(b"half of a")
        raise OSError("no space left")

    monkeypatch.setattr("rs4d_edge.reference.checkpoints.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(encoder, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrapping", ["bare", "module", "mmengine", "module in state_dict"])
def test_published_wrappings_give_the_same_weights(encoder: RSMamba, tmp_path: Path, wrapping: str) -> None:
    bare = encoder.state_dict()
    content: dict[str, object] = {
        "bare": dict(bare),
        "module": {f"module.{name}": value for name, value in bare.items()},
        "mmengine": {"meta": {"epoch": 3}, "state_dict": {f"backbone.{name}": value for name, value in bare.items()}},
        "module in state_dict": {"state_dict": {f"module.backbone.{name}": value for name, value in bare.items()}},
    }[wrapping]
    torch.save(content, tmp_path / "published.pth")
    state, config = load_state(tmp_path / "published.pth")
    assert config is None
    assert same(state, encoder)


@pytest.mark.parametrize("name", ["encoder_small.pth", "encoder_small.module_prefix.pth", "encoder_small.mmengine.pth"])
def test_published_files_load_into_the_encoder(fixtures_dir: Path, name: str) -> None:
    config = EncoderConfig(channels=64, depth=4, inner_channels=128, image_size_hw=(256, 256))
    model = RSMamba(config)
    state, _ = load_state(fixtures_dir / name)
    load_into(model, state)
    assert same(state, model)


def test_half_precision_is_widened(encoder: RSMamba, tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in encoder.state_dict().items()}, tmp_path / "half.pth")
    state, _ = load_state(tmp_path / "half.pth")
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_training_history_beside_the_weights_is_ignored(
    encoder: RSMamba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine's runner saves objects of its own classes, which a machine without mmengine could not build."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            import numpy

            self.losses = numpy.arange(3.0)
            self.last = numpy.float64(2.0)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    history = {"message_hub": {"loss": HistoryBuffer()}, "state_dict": encoder.state_dict()}
    torch.save(history, tmp_path / "epoch_1.pth")
    monkeypatch.undo()
    assert same(load_state(tmp_path / "epoch_1.pth")[0], encoder)


class Harmful:
    """Creates a file when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.target), "w")  # type: ignore[return-value]


def test_objects_in_a_torch_file_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": Harmful(tmp_path / "made")}}, tmp_path / "harmful.pth")
    with pytest.raises(CheckpointError, match=r"harmful\.pth .*cannot be read"):
        load_state(tmp_path / "harmful.pth")
    assert not (tmp_path / "made").exists()


def test_every_wrong_name_is_listed_in_one_error(encoder: RSMamba) -> None:
    state = dict(encoder.state_dict())
    before = {name: value.clone() for name, value in state.items()}
    del state["ln1.weight"], state["ln1.bias"]
    state["extra.weight"] = torch.zeros(3)
    state["pos_embed"] = torch.zeros(1, 9, 16)
    state["pre_norm.weight"] = torch.full((16,), 5.0)
    with pytest.raises(CheckpointError) as caught:
        load_into(encoder, state, "some.pth")
    for part in ("some.pth", "2 missing: ln1.weight, ln1.bias", "1 unexpected: extra.weight", "pos_embed (1, 9, 16)"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_batch_norm_counters_are_neither_required_nor_in_the_way() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm)
    load_into(model, {name: value + 1 for name, value in model.state_dict().items() if "num_batches" not in name})
    assert norm.weight.tolist() == [2.0, 2.0, 2.0]
    load_into(
        nn.Sequential(nn.LayerNorm(3)),
        {"0.weight": torch.ones(3), "0.bias": torch.ones(3), "1.num_batches_tracked": torch.tensor(1)},
    )


def test_encoder_takes_its_part_of_a_detector(encoder: RSMamba) -> None:
    other = RSMamba(TINY)
    state = {f"backbone.{name}": value for name, value in encoder.state_dict().items()} | {"neck.x": torch.zeros(1)}
    load_into(other, state)
    assert same(dict(other.state_dict()), encoder)


def test_encoder_alone_is_not_a_detector(encoder: RSMamba) -> None:
    detector = nn.ModuleDict({"backbone": RSMamba(TINY), "neck": nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match="load it into the detector's `backbone`"):
        load_into(detector, encoder.state_dict())


def truncated_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_torch(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-1000])


WRONG = {
    "cut.safetensors": (truncated_safetensors, "fetch it again"),
    "cut.pth": (truncated_torch, "fetch it again"),
    "pointer.pth": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "fetch the file itself",
    ),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "begins with b''"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "holds a list"),
    "numbers.pth": (lambda path: torch.save({"epoch": 3}, path), r"epoch \(int\)"),
    "nothing.pth": (lambda path: torch.save({}, path), "no entry"),
    "strange.safetensors": (lambda path: save_file({"a": torch.zeros(1)}, path, {CONFIG_KEY: "{}x"}), "configuration"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "absent.pth": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named_with_advice(tmp_path: Path, name: str) -> None:
    make, advice = WRONG[name]
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=advice) as caught:
        load_state(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "expected" in str(caught.value)
