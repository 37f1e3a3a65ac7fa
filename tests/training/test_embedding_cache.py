"""The cache gives back what was written, or says what is wrong; a killed run goes on; nothing stale is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rs4d_edge.errors import DataError
from rs4d_edge.training import embedding_cache
from rs4d_edge.training.embedding_cache import EmbeddingCache, Entry
from tests.training.tiny_distillation import ColourTeacher

ENTRIES = [Entry(f"{number:064x}", turn) for number in range(3) for turn in range(2)]


def maps(entry: Entry) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(int(entry.sha256, 16) * 8 + entry.orientation)
    return torch.randn(16, 4, 4, generator=generator), torch.randn(5, 4, 4, generator=generator)


def opened(folder: Path, teacher: ColourTeacher | None = None, precision: str = "fp32") -> EmbeddingCache:
    return EmbeddingCache(folder, teacher or ColourTeacher(), (1,), precision)


def filled(folder: Path) -> EmbeddingCache:
    cache = opened(folder)
    for start in (0, 3):
        cache.write_shard({entry: maps(entry) for entry in ENTRIES[start : start + 3]})
    return cache


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/maps-*.safetensors"))


def test_what_was_written_is_read_in_float16(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = opened(tmp_path)
    report = cache.look_up(ENTRIES)
    assert (report.present, report.missing, report.damaged) == (6, (), 0)
    for entry in ENTRIES:
        for read, written in zip(cache.read(entry), maps(entry), strict=True):
            assert torch.equal(read, written.half())


def test_the_size_is_known_before_and_true_after(tmp_path: Path) -> None:
    report = opened(tmp_path).look_up([*ENTRIES, ENTRIES[0]])  # asked for twice, needed once
    assert report.entry_bytes == 2 * (16 + 5) * 4 * 4
    assert report.missing_bytes == report.total_bytes == 6 * report.entry_bytes
    filled(tmp_path)
    data = sum(value.numel() * value.element_size() for path in shards(tmp_path) for value in load_file(path).values())
    assert data == report.total_bytes


def test_a_later_look_computes_only_what_is_new(tmp_path: Path) -> None:
    opened(tmp_path).write_shard({entry: maps(entry) for entry in ENTRIES[:4]})
    assert opened(tmp_path).look_up(ENTRIES).missing == tuple(ENTRIES[4:])


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_shard_that_was_cut_short_is_computed_anew(tmp_path: Path, kept: int) -> None:
    filled(tmp_path)
    victim = shards(tmp_path)[0]
    victim.write_bytes(victim.read_bytes()[:kept])
    report = opened(tmp_path).look_up(ENTRIES)
    assert (report.present, len(report.missing), report.damaged) == (3, 3, 1)
    assert not victim.exists()


def test_an_edited_value_is_one_clear_error(tmp_path: Path) -> None:
    filled(tmp_path)
    victim = shards(tmp_path)[0]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    cache = opened(tmp_path)
    assert cache.look_up(ENTRIES).damaged == 0
    broken = [entry for entry in ENTRIES if cache._shard_of[entry.key] == victim]
    with pytest.raises(DataError, match=rf"{victim.name}.*delete this file and start again"):
        for entry in broken:
            cache.read(entry)
    for entry in set(ENTRIES) - set(broken):
        cache.read(entry)
    victim.unlink()
    assert set(opened(tmp_path).look_up(ENTRIES).missing) == set(broken)


def test_a_shard_whose_maps_are_missing_or_of_another_shape_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path)
    first, second = shards(tmp_path)
    for path, change in ((first, lambda name, value: None), (second, lambda name, value: value[:, :2])):
        content = load_file(path)
        with safe_open(path, framework="pt") as shard:
            metadata = shard.metadata()
        name = min(content)
        changed = change(name, content.pop(name))
        if changed is not None:
            content[name] = changed.contiguous()
        save_file(content, path, metadata=metadata)
    report = opened(tmp_path).look_up(ENTRIES)
    assert (report.present, report.damaged) == (0, 2)


def test_another_teacher_preprocessing_or_precision_finds_nothing(tmp_path: Path) -> None:
    filled(tmp_path)

    class Other(ColourTeacher):
        fingerprint = "0ther" * 12

    for cache in (
        opened(tmp_path, Other()),
        opened(tmp_path, ColourTeacher(side=128, cell=32)),
        opened(tmp_path, precision="bf16"),
        EmbeddingCache(tmp_path, ColourTeacher(), (2,), "fp32"),
    ):
        assert cache.look_up(ENTRIES).present == 0


def test_half_written_shards_of_killed_runs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path).folder
    left = folder / ".maps-0123.safetensors.1.partial"
    left.write_bytes(b"half")
    opened(tmp_path).look_up(ENTRIES)
    assert left.exists()  # it may be another run's, at work
    monkeypatch.setattr(embedding_cache, "ABANDONED_AFTER_S", -1.0)
    assert opened(tmp_path).look_up(ENTRIES).present == 6
    assert not left.exists()


def test_maps_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    large = (torch.full((16, 4, 4), 1e6), torch.zeros(5, 4, 4))
    with pytest.raises(DataError, match="not finite in float16"):
        opened(tmp_path).write_shard({ENTRIES[0]: large})
    assert shards(tmp_path) == []


def test_an_entry_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=ENTRIES[0].key):
        opened(tmp_path).read(ENTRIES[0])
