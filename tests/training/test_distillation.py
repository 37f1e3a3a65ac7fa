"""A run as a whole: it learns, spoils the student's input alone, resumes exactly, and gives rs4d-train its start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference.checkpoints import load_metadata, load_state
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training import distill_step
from rs4d_edge.training.distill_settings import LossWeights, parse_corruption
from rs4d_edge.training.distillation import ENCODER_NAME
from rs4d_edge.training.run_state import load_run_state, read_content
from rs4d_edge.training.student import Student
from rs4d_edge.training.trainer import METRICS_NAME
from rs4d_edge.training.warm_start import warm_start
from tests.reference.tiny_detector import TINY
from tests.training.tiny_distillation import (
    EDGE_STUDENT,
    SIDE,
    ColourTeacher,
    begin_corrupted,
    distiller,
    one_thread,
    write_pictures,
)

ADAPTIVE = parse_corruption("adaptive").model_copy(update={"probe_every_steps": 2, "learnt_first": 1e-6})


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS_NAME).read_text().splitlines()]


def state(out: Path) -> dict[str, Any]:
    return read_content(out, "distillation-1")


def assert_same_state(first: Any, second: Any, place: str = "") -> None:
    """Equal to the last bit, all but the time that a run took."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), place
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for name in first.keys() - {"elapsed_s", "identity"}:
            assert_same_state(first[name], second[name], f"{place}/{name}")
    elif isinstance(first, list | tuple):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same_state(one, other, f"{place}/{number}")
    else:
        assert first == second, place


@pytest.mark.parametrize("corruption", ["none", "adaptive"])
def test_the_student_learns_what_lies_where(pictures: Path, tmp_path: Path, corruption: str) -> None:
    run = distiller(
        pictures,
        tmp_path,
        epochs=40,
        evaluations=2,
        holdout=0.2,
        batch=5,
        lr=1e-2,
        ema_decay=0.8,
        turns=False,
        corruption=ADAPTIVE if corruption == "adaptive" else parse_corruption("none"),
    )
    result = run.run()
    assert (result.images, result.held_out_images, result.finished, result.steps) == (5, 1, True, 40)
    held_out = [record for record in records(tmp_path) if record["kind"] == "held out"]
    assert [record["step"] for record in held_out] == [20, 40]
    assert held_out[1]["l1"] < 0.8 * held_out[0]["constant"]
    assert result.held_out["learnt"] > 0.2
    assert result.held_out["learnt"] == pytest.approx(1 - result.held_out["l1"] / result.held_out["constant"])
    train = [record for record in records(tmp_path) if record["kind"] == "train"]
    assert train[-1]["l1"] < train[0]["l1"]
    assert (train[-1]["noise"] > 0) == (corruption == "adaptive")


def test_the_student_alone_sees_the_corruption(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Watched(Student):
        def forward(self, image: torch.Tensor) -> Any:
            seen.append(image.clone())
            return super().forward(image)

    shown = {}
    for corruption in ("none", "0.3:0.5"):
        teacher = ColourTeacher()
        run = distiller(pictures, tmp_path / corruption, teacher=teacher, corruption=parse_corruption(corruption))
        seen.clear()
        run._train._raw.__class__ = Watched
        run.run()
        shown[corruption] = (torch.cat(teacher.seen), torch.cat(seen))
    clean_teacher, clean_student = shown["none"]
    teacher_images, student_images = shown["0.3:0.5"]
    assert torch.equal(teacher_images, clean_teacher)
    assert torch.equal(clean_student, clean_teacher)  # same side, same resize: the very same picture
    hidden = (student_images == 0).all(dim=1) & (clean_student != 0).any(dim=1)
    assert 0.4 < float(hidden.float().sum() / (clean_student != 0).any(dim=1).sum()) < 0.6
    left = ~hidden[:, None] & (clean_student != 0)
    assert float((student_images - clean_student)[left].std()) == pytest.approx(0.3, rel=0.05)


class Killed(BaseException):
    """Ends a run where it stands, without a word."""


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_a_run_resumed_in_mid_epoch_equals_an_uninterrupted_one(
    pictures: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 5, or killed in step 6 with the last save after step 4; an epoch has three steps."""
    options: dict[str, Any] = {
        "student": EDGE_STUDENT,
        "teacher": ColourTeacher(channels=24, side=96),
        "corruption": ADAPTIVE,
        "save_every_steps": 2,
        "evaluations": 1,
        "smallest_crop": 0.5,
        "accumulate": 2,
        "loss": LossWeights(cosine=0.5, layers=0.5, layer_maps=1),
    }
    begin_corrupted(distiller(pictures, tmp_path / "whole", **options)).run()
    cut = begin_corrupted(distiller(pictures, tmp_path / "cut", **options))
    real = cut._train

    class Interrupting:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, batch: Any, step: int, progress: float) -> Any:
            if step == 5:
                raise Killed
            if step == 4 and way == "stopped":
                cut.stop()
            return real(batch, step, progress)

    monkeypatch.setattr(cut, "_train", Interrupting())
    if way == "killed":
        with pytest.raises(Killed):
            cut.run()
    else:
        assert not cut.run().finished
    assert state(tmp_path / "cut")["step"] == (4 if way == "killed" else 5)
    torch.manual_seed(99)  # what a new process has drawn before it resumes does not matter
    resumed = distiller(pictures, tmp_path / "cut", **options)
    assert resumed.run(resume=True).finished
    assert 0 < state(tmp_path / "whole")["corruption"]["mask"]["level"] < 0.4
    assert_same_state(state(tmp_path / "cut"), state(tmp_path / "whole"))
    first, second = (load_file(tmp_path / name / ENCODER_NAME) for name in ("cut", "whole"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_is_not_continued_as_another(pictures: Path, tmp_path: Path) -> None:
    distiller(pictures, tmp_path, epochs=1).run()
    with pytest.raises(InputError, match="other values of lr, seed"):
        distiller(pictures, tmp_path, epochs=2, seed=1, lr=1e-4).run(resume=True)
    with pytest.raises(InputError, match="other values of images"):
        distiller(write_pictures(tmp_path / "more", 7), tmp_path, epochs=2).run(resume=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        distiller(pictures, tmp_path / "absent").run(resume=True)
    with pytest.raises(CheckpointError, match="version 1"):
        load_run_state(tmp_path)  # a detector's trainer does not take it for its own
    assert distiller(pictures, tmp_path, epochs=2).run(resume=True).steps == 6


def test_a_cached_teacher_teaches_the_same(pictures: Path, tmp_path: Path) -> None:
    """Up to float16; a second run needs the teacher no more, and the records end where the resumed step begins."""
    options: dict[str, Any] = {"loss": LossWeights(layers=0.5, layer_maps=1), "epochs": 2, "holdout": 0.2}
    along = distiller(pictures, tmp_path / "along", **options)
    along.run()
    teacher = ColourTeacher()
    cached = distiller(pictures, tmp_path / "cached", teacher=teacher, cache=tmp_path / "cache", **options)
    cached.run()
    assert len(teacher.seen) == 5 * 8 + 1  # every orientation of what is trained on; what is measured on as it is
    idle = ColourTeacher()
    distiller(pictures, tmp_path / "again", teacher=idle, cache=tmp_path / "cache", **options).run()
    assert idle.seen == []
    encoders = [load_file(tmp_path / name / ENCODER_NAME) for name in ("along", "cached", "again")]
    for name, value in encoders[0].items():
        assert torch.allclose(value, encoders[1][name], atol=2e-3), name
        assert torch.equal(encoders[1][name], encoders[2][name]), name


def test_a_cache_goes_on_after_a_kill(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rs4d_edge.training.embedding_cache.ENTRIES_PER_SHARD", 4)

    class Mortal(ColourTeacher):
        def embed(self, image: Any, layers: Any) -> Any:
            if len(self.seen) == 10:
                raise Killed
            return super().embed(image, layers)

    options: dict[str, Any] = {"cache": tmp_path / "cache", "epochs": 1}
    with pytest.raises(Killed):
        distiller(pictures, tmp_path / "out", teacher=Mortal(), **options).run()
    second = ColourTeacher()
    distiller(pictures, tmp_path / "out", teacher=second, **options).run()
    assert len(second.seen) == 6 * 8 - 8  # two whole shards of four had been written


def test_accumulated_passes_learn_the_same(pictures: Path, tmp_path: Path) -> None:
    students = []
    for passes in (1, 2, 4):
        run = distiller(pictures, tmp_path / str(passes), batch=4, accumulate=passes)
        run.run()
        students.append(load_file(tmp_path / str(passes) / ENCODER_NAME))
    for other in students[1:]:
        for name, value in students[0].items():
            assert torch.allclose(value, other[name], atol=2e-5), name


def test_a_distilled_encoder_starts_a_detector(pictures: Path, tmp_path: Path) -> None:
    run = distiller(
        pictures, tmp_path, student=TINY.encoder, teacher=ColourTeacher(channels=24), image_size=SIDE, epochs=1
    )
    run.run()
    path = tmp_path / ENCODER_NAME
    _, config = load_state(path)
    assert config == TINY.encoder
    assert load_metadata(path)["teacher_sha256"] == ColourTeacher.fingerprint
    detector = RS4D(TINY)
    begun = warm_start(detector, path)
    assert {name for name in detector.state_dict() if name.startswith("backbone.")} == set(begun.taken)
    for name, value in load_file(path).items():
        assert torch.equal(detector.backbone.state_dict()[name], value), name


def test_a_run_by_time_ends_with_the_rate_annealed(pictures: Path, tmp_path: Path) -> None:
    result = distiller(pictures, tmp_path, epochs=None, max_minutes=1 / 60, warmup_steps=0).run()
    assert result.finished
    assert result.elapsed_s >= 1.0
    assert (tmp_path / ENCODER_NAME).is_file()


def test_patches_that_do_not_fit_are_refused_before_the_run(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patches of 24 px do not divide the student's 64 px"):
        distiller(pictures, tmp_path, corruption=parse_corruption("0.1:0.1", 24))


def test_a_batch_that_the_processes_cannot_share_is_refused(pictures: Path, tmp_path: Path) -> None:
    run = distiller(pictures, tmp_path, batch=6, accumulate=2)
    two_and_more: Any = SimpleNamespace(world_size=2)
    with pytest.raises(InputError, match="choose a multiple of 4"):
        distill_step.DistillStep(two_and_more, run._train._raw, run._targets, run._preprocessing, run.settings)
