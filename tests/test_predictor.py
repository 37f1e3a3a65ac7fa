from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import rs4d_edge
from rs4d_edge.contract import MaskKind, ModelContract
from rs4d_edge.errors import BundleError, ClosedError, FrameError, InputError, RuntimeFailure
from rs4d_edge.predictor import Predictor
from rs4d_edge.runtimes import table
from tests.stand_ins import Array, KnownRuntime, contract, outputs, small_bundle

FRAME = np.random.default_rng(0).integers(0, 256, (128, 100, 3), dtype=np.uint8)  # halved by an input of 64x96
BOXES: list[list[float]] = [[10, 8, 30, 40], [2, 2, 20, 20], [40, 10, 90, 60], [60, 10, 90, 60]]
SCORES, LABELS = [0.9, 0.6, 0.5, 0.4], [2, 0, 1, 1]


def known(model: ModelContract | None = None, changes: Mapping[str, Array] | None = None) -> KnownRuntime:
    model = model if model is not None else contract()
    return KnownRuntime(model, {**outputs(model, BOXES, SCORES, LABELS), **(changes or {})})


def test_detections_are_in_pixels_of_the_frame_clipped_to_it() -> None:
    with Predictor.over(known(), contract()) as predictor:
        found = predictor.run(FRAME)
    assert found.size_hw == (128, 100)
    # The frame fills columns 0..49 of the input: the third box is cut there, the fourth lies wholly in the padding.
    expected = [[20, 16, 60, 80], [4, 4, 40, 40], [80, 20, 100, 120]]
    np.testing.assert_array_equal(found.boxes_xyxy, np.array(expected, np.float32))
    assert found.class_names == ("bridge", "airplane", "ship")
    np.testing.assert_allclose(found.scores, SCORES[:3], rtol=1e-6)
    assert found.mask(2).sum() == 20 * 100 - 2  # it ends at the frame; samples at the box's corners are below 0.5
    assert found.mask(0)[16:80, 20:60].all() and found.mask(0).sum() == 40 * 64


def test_masks_over_the_frame() -> None:
    model = contract(MaskKind.FRAME)
    maps = np.zeros(model.output_shapes["masks"], np.float32)
    maps[0, 0, 4:8, 2:6] = 1  # rows 16..31, columns 8..23 of the input, twice that in the frame
    with Predictor.over(known(model, {"masks": maps}), model) as predictor:
        found = predictor.run(FRAME)
    inside = found.mask(0)[33:63, 17:47]
    assert inside[1:-1, 1:-1].all()
    assert abs(int(found.mask(0).sum()) - 32 * 32) < 4 * 32
    assert not found.mask(1).any()


def test_the_runtime_is_fed_the_resized_frame_in_rgb() -> None:
    runtime = known()
    with Predictor.over(runtime, contract()) as predictor:
        predictor.run(FRAME)
        predictor.run(FRAME[..., ::-1].copy(), color="BGR")
    first, second = runtime.feeds
    small = cv2.resize(FRAME, (50, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(first["frame"][0, :64, :50], small)
    assert not first["frame"][0, :, 50:].any()
    np.testing.assert_array_equal(second["frame"], first["frame"])
    assert first["valid_hw"].tolist() == [[64, 50]] and first["valid_hw"].dtype == np.int64


def test_frames_of_any_size_one_after_another() -> None:
    with Predictor.over(known(), contract()) as predictor:
        for shape in ((64, 96), (1, 1), (3, 700), (700, 3), (1080, 1920), (64, 96)):
            found = predictor.run(np.zeros((*shape, 3), np.uint8))
            assert found.size_hw == shape
            assert (found.boxes_xyxy[:, 2:] <= [shape[1], shape[0]]).all()


def test_results_do_not_change_with_the_next_frame() -> None:
    runtime = known()
    with Predictor.over(runtime, contract()) as predictor:
        first = predictor.run(FRAME)
        for array in runtime.answer.values():
            array[:] = 0
        assert len(predictor.run(FRAME)) == 0
    assert first.boxes_xyxy[0].tolist() == [20, 16, 60, 80]
    assert first.mask(0).sum() == 40 * 64  # rendered after the Predictor was closed


def test_several_frames_share_the_batches_of_the_graph() -> None:
    model = contract(batch=2)
    runtime = KnownRuntime(model, outputs(model, BOXES, SCORES, LABELS))
    frames = [FRAME, FRAME[:64], FRAME[:, :20]]
    with Predictor.over(runtime, model) as predictor:
        found = predictor.run_batch(frames)
        assert predictor.run_batch([]) == []
    assert [each.size_hw for each in found] == [(128, 100), (64, 100), (128, 20)]
    assert [feeds["valid_hw"].tolist()[0] for feeds in runtime.feeds] == [[64, 50], [64, 10]]
    assert runtime.feeds[0]["valid_hw"].tolist()[1] == [61, 96]  # 64 * 0.96 = 61.44


def test_a_score_threshold_can_only_rise() -> None:
    with Predictor.over(known(), contract(), score_threshold=0.55) as predictor:
        assert len(predictor.run(FRAME)) == 2
    with Predictor.over(known(), contract()) as predictor:
        assert predictor.score_threshold == 0.05
    for wrong in (0.01, -1.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="score_threshold"):
            Predictor.over(known(), contract(), score_threshold=wrong)


def test_padded_rows_are_no_detections_even_without_a_threshold() -> None:
    model = contract(score_threshold=0.0)
    runtime = KnownRuntime(model, outputs(model, BOXES[:1], SCORES[:1], LABELS[:1]))
    runtime.answer["boxes"][0, 1:] = BOXES[0]
    with Predictor.over(runtime, model) as predictor:
        assert len(predictor.run(FRAME)) == 1


@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_an_error_that_names_it(name: str, value: float) -> None:
    runtime = known()
    runtime.answer[name].reshape(-1)[0] = value
    with Predictor.over(runtime, contract()) as predictor, pytest.raises(RuntimeFailure, match=f"{name} hold NaN"):
        predictor.run(FRAME)


def test_outputs_that_do_not_fit_the_contract_are_named() -> None:
    cases: list[tuple[dict[str, Array], str]] = [
        ({"masks": np.zeros((1, 4, 14, 14), np.float32)}, "masks"),
        ({"labels": np.full((1, 4), 3)}, "labels"),
        ({"labels": np.full((1, 4), -1)}, "labels"),
    ]
    for change, message in cases:
        with (
            Predictor.over(known(changes=change), contract()) as predictor,
            pytest.raises(RuntimeFailure, match=message),
        ):
            predictor.run(FRAME)
    runtime = known()
    del runtime.answer["scores"]
    with Predictor.over(runtime, contract()) as predictor, pytest.raises(RuntimeFailure, match="no output 'scores'"):
        predictor.run(FRAME)


def test_frames_and_colours_that_cannot_be_used() -> None:
    with Predictor.over(known(), contract()) as predictor:
        with pytest.raises(FrameError, match="float32"):
            predictor.run(np.zeros((4, 4, 3), np.float32))
        with pytest.raises(InputError, match="rgb"):
            predictor.run(FRAME, color="rgb")  # type: ignore[arg-type]
        assert len(predictor.run(FRAME)) == 3  # and it still works


def test_closing_twice_closes_once_and_then_nothing_runs() -> None:
    runtime = known()
    with Predictor.over(runtime, contract()) as predictor:
        pass
    predictor.close()
    assert runtime.closed == 1
    with pytest.raises(ClosedError, match="closed"):
        predictor.run(FRAME)


def test_a_second_thread_is_refused_rather_than_mixed_up() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(KnownRuntime):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            entered.set()
            leave.wait(10)
            return super().run(feeds)

    model = contract()
    with Predictor.over(Slow(model, outputs(model, BOXES, SCORES, LABELS)), model) as predictor:
        worker = threading.Thread(target=predictor.run, args=(FRAME,))
        worker.start()
        entered.wait(10)
        try:
            with pytest.raises(InputError, match="one Predictor for each thread"):
                predictor.run(FRAME)
        finally:
            leave.set()
            worker.join()
        assert len(predictor.run(FRAME)) == 3


def test_timings_of_every_stage() -> None:
    with Predictor.over(known(), contract()) as predictor:
        found = predictor.run(FRAME)
    assert min(found.timings.resize_ms, found.timings.infer_ms, found.timings.post_ms) > 0
    assert found.timings.mask_ms == 0
    found.masks()
    assert found.timings.mask_ms > 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of `open_runtime`, which opens a runtime with known answers."""
    calls: list[dict[str, Any]] = []

    def open_known(name: str, model_path: Path, *, threads: int | None, precision: str) -> KnownRuntime:
        calls.append({"name": name, "model": model_path.name, "threads": threads, "precision": precision})
        return known()

    monkeypatch.setattr(table, "open_runtime", open_known)
    return calls


def test_a_bundle_is_opened_as_its_manifest_says(tmp_path: Path, opened: list[dict[str, Any]]) -> None:
    small_bundle(tmp_path / "bundle", precision="bf16")
    with Predictor(tmp_path / "bundle") as predictor:
        assert len(predictor.run(FRAME)) == 3
        assert predictor.manifest is not None and predictor.manifest.name == "small"
    with Predictor(str(tmp_path / "bundle"), runtime="openvino", threads=3, score_threshold=0.55) as predictor:
        assert len(predictor.run(FRAME)) == 2
    assert opened == [
        {"name": "onnxruntime", "model": "model.onnx", "threads": None, "precision": "bf16"},
        {"name": "openvino", "model": "model.onnx", "threads": 3, "precision": "bf16"},
    ]


def test_a_damaged_bundle_is_never_given_to_an_engine(tmp_path: Path, opened: list[dict[str, Any]]) -> None:
    small_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.bin"):
        Predictor(tmp_path / "bundle")
    assert opened == []


def test_a_threshold_that_is_too_low_is_refused_before_an_engine_loads(
    tmp_path: Path, opened: list[dict[str, Any]]
) -> None:
    small_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"below the model's own 0\.05"):
        Predictor(tmp_path / "bundle", score_threshold=0.01)
    assert opened == []


def test_sources_that_are_neither(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"x")
    with pytest.raises(InputError, match="rs4d-export"):
        Predictor(checkpoint)
    with pytest.raises(InputError, match="not a int"):
        Predictor(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not in 'openvino'"):
        Predictor(SimpleNamespace(contract=contract()), runtime="openvino")


def test_the_version_is_that_of_the_package() -> None:
    metadata = pytest.importorskip("importlib.metadata")
    assert rs4d_edge.__version__ == metadata.version("rs4d-edge")
