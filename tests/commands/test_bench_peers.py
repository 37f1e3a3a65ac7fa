"""`rs4d-bench --peer`: what stands beside a bundle, and what cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn
from typer.testing import CliRunner

from rs4d_edge.bench.streams import run_frame
from rs4d_edge.bench.uninterpreted import UninterpretedPath
from rs4d_edge.bundle import open_bundle, sha256_of
from rs4d_edge.commands import bench_peers
from rs4d_edge.commands.bench import app
from rs4d_edge.errors import InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import EncoderConfig, PathType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.mixer import Mixer
from rs4d_edge.reference.shipped import shipped_path
from tests.commands.constant_bundles import SIDE, write_constant_bundle
from tests.reference.tiny_detector import TINY, scene
from tests.runtimes.onnx_networks import image, write_network
from tests.stand_ins import golden_frame

pytest.importorskip("onnxruntime")

SHORT = ("--duration", "0.2", "--threads", "1")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, networks to stand beside it, and a detector's checkpoint."""
    folder = tmp_path_factory.mktemp("peers")
    write_constant_bundle(folder / "bundle", "fp32")
    write_network(folder / "other.onnx", image(("batch", 3, "height", "width")))
    write_network(folder / "fixed.onnx", image((1, 24, 32, 3), TensorProto.UINT8))
    write_network(folder / "numbers.onnx", ("numbers", TensorProto.FLOAT, (1, 8)))
    torch.manual_seed(0)
    save_checkpoint(RS4D(TINY).eval(), folder / "tiny.safetensors")
    return folder


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers are tried here and not in a process of their own, which would import torch once more."""
    monkeypatch.setattr(
        bench_peers, "_tried", lambda _, kind, *arguments: bench_peers.describe(kind, *map(str, arguments))
    )


def test_onnx_networks_stand_beside_a_bundle(folder: Path, tmp_path: Path) -> None:
    peers = ("--peer", folder / "other.onnx", "--peer", folder / "fixed.onnx")
    result = run(folder / "bundle", *SHORT, *peers, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.exception
    for text in ("peer: other.onnx: onnxruntime", "answers not interpreted", "Beside peers", "of bundle"):
        assert text in result.output
    record = json.loads((tmp_path / "bench.json").read_text())
    (bundle,) = record["bundles"]
    other, fixed = record["peers"]
    assert other["file_sha256"] == sha256_of(folder / "other.onnx")
    assert (other["input_hw"], other["input"]) == ([SIDE, SIDE], "float32 NCHW")
    assert (fixed["input_hw"], fixed["input"]) == ([24, 32], "uint8 NHWC")
    for each in (other, fixed):
        assert (each["frame_hw"], each["threads"]) == (bundle["frame_hw"], bundle["threads"])
        assert set(each["latency"]) == set(bundle["latency"]) and each["runs"] > 0
        assert each["objects"] is None and each["accuracy"] is None and not each["masks_rendered"]
        assert each["over_bundle"]["label"] == "bundle" and each["over_bundle"]["rounds"] >= 5


@pytest.mark.usefixtures("_in_this_process")
def test_the_published_path_of_a_checkpoint_stands_beside_a_bundle(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    peer = f"published={folder / 'tiny.safetensors'}"
    result = run(folder / "bundle", *SHORT, "--peer", peer, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.exception
    (published,) = json.loads((tmp_path / "bench.json").read_text())["peers"]
    assert (published["runtime"], published["precision"], published["weights"]) == ("torch", "fp32", "tiny.safetensors")
    assert published["input_hw"] == [SIDE, SIDE] and published["masks_rendered"]
    assert published["objects"] is not None


def test_published_mixers_give_what_ours_give() -> None:
    pytest.importorskip("transformers")
    from rs4d_edge.commands.peer_published import PublishedMixer, publish

    frame, valid_hw, _ = scene()
    torch.manual_seed(0)
    model = RS4D(TINY).eval()
    with torch.inference_mode():
        expected = model(frame, valid_hw)
        found = publish(model)(frame, valid_hw)
        assert all(isinstance(each, PublishedMixer) for each in model.backbone.layers)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.masks, expected.masks, atol=1e-4, rtol=1e-4)
        for path in PathType:
            config = EncoderConfig(channels=16, depth=1, inner_channels=32, image_size_hw=(32, 32), path=path)
            ours, tokens = Mixer(config).eval(), torch.randn(2, 4, 16)
            gate = nn.Sequential(nn.Linear(32, 2, bias=False), nn.Softmax(dim=-1))
            of_path = gate if path is PathType.FORWARD_REVERSE_GATE else None
            published = PublishedMixer(ours, config)(tokens, of_path)
            torch.testing.assert_close(published, ours(tokens, of_path), atol=1e-5, rtol=1e-4)


def test_the_published_path_has_the_bundle_s_weights_where_they_are_known(folder: Path) -> None:
    from rs4d_edge.commands.peer_published import OWN, RANDOM, find_model

    manifest = open_bundle(folder / "bundle").manifest
    shipped = "rs4d-edge-nano-bbox"
    named = manifest.model_copy(update={"name": shipped})
    random = find_model(named, None)
    assert random.weights == RANDOM and random.model.config.classes == manifest.contract.classes
    assert random.model.contract.image_size_hw == (SIDE, SIDE)
    weights = manifest.weights.model_copy(update={"sha256": sha256_of(shipped_path(shipped))})
    own = find_model(named.model_copy(update={"weights": weights}), None)
    assert own.weights == OWN and len(own.model.config.classes) == 10
    with pytest.raises(InputError, match="published=FILE"):
        find_model(manifest, None)


def test_sam_s_encoder_takes_the_frame() -> None:
    pytest.importorskip("transformers")
    from rs4d_edge.commands.peer_sam import SamNetwork

    network = SamNetwork(1, side=64, layers=1)
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    fed = network.prepare(grey)
    assert isinstance(fed, torch.Tensor) and fed.shape == (1, 3, 64, 64)
    assert fed[0, :, 0, 0].tolist() == pytest.approx([0.0741, 0.2052, 0.4265], abs=1e-4)
    before = torch.get_num_threads()
    with UninterpretedPath(network) as frames:
        assert run_frame(frames, golden_frame()).timings.infer_ms > 0
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("_in_this_process")
def test_a_peer_that_fails_loses_nothing_else(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeFailure("out of memory")

    monkeypatch.setattr(bench_peers, "_open_sam", broken)
    monkeypatch.setattr(bench_peers, "is_installed", lambda _: True)
    peers = ("--peer", "sam-vit-b", "--peer", folder / "other.onnx")
    result = run(folder / "bundle", *SHORT, *peers, "--json", tmp_path / "bench.json")
    assert isinstance(result.exception, RuntimeFailure)
    assert str(result.exception) == "peer: SAM ViT-B encoder was not measured: out of memory"
    record = json.loads((tmp_path / "bench.json").read_text())
    assert len(record["bundles"]) == 1 and [each["label"] for each in record["peers"]] == ["peer: other.onnx"]


def test_what_cannot_be_a_peer_is_named_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    bundle, other = folder / "bundle", folder / "other.onnx"
    (tmp_path / "a.json").write_text("{}")
    for arguments, words in (
        ((bundle, "--peer", "yolo"), "there is no file yolo; expected published, published=CHECKPOINT, sam-vit-b or"),
        ((bundle, "--peer", "published=absent.pth"), "there is no file absent.pth"),
        ((bundle, "--peer", folder / "numbers.onnx"), "of shape [1, 8]"),
        ((bundle, "--peer", folder / "tiny.safetensors"), "cannot load"),
        ((bundle, "--peer", other, "--peer", other), "name each once"),
        ((bundle, "--peer", other, "--soak", "2m"), "--soak"),
        ((bundle, "--peer", other, "--runs", "9"), "--runs"),
        (("--matrix", bundle, "--peer", other), "--peer"),
        (("--compare", "a", "b", "--peer", other), "--peer"),
        ((tmp_path / "a.json", "--peer", other), "one page"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, InputError), (arguments, error)
        assert words in str(error)


def test_a_peer_that_is_not_installed_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for peer in ("published", "sam-vit-b"):
        error = run(folder / "bundle", *SHORT, "--peer", peer).exception
        assert isinstance(error, RuntimeUnavailable)
        assert "not installed here: transformers." in str(error) and 'pip install "rs4d-edge[distill]"' in str(error)
