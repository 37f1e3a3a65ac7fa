"""A teacher's maps on disk, computed once: float16, in safetensors shards of a few pictures each.

A folder of the cache belongs to one teacher (by the hash of its weights), one preprocessing, one choice of layers and
one precision; an entry in it to one picture (by the hash of its file) in one orientation. So nothing stale can be read,
and several students, runs and data sets may share a cache. Shards are written whole or not at all: a killed run loses
at most the one it was computing. Each entry carries a checksum, which every read compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rs4d_edge.errors import DataError
from rs4d_edge.training.teachers import Teacher

ENTRIES_PER_SHARD = 16  # embeddings of a SAM are 2 MiB each: a shard is 32 MiB, and minutes of a CPU's work
ABANDONED_AFTER_S = 3600.0  # a half-written shard this old belongs to a run that was killed
VERSION = "1"
_BYTES = 2  # of a float16


class Entry(NamedTuple):
    """A picture, by the SHA-256 of its file, in one of its eight orientations."""

    sha256: str
    orientation: int

    @property
    def key(self) -> str:
        """Its name within a shard."""
        return f"{self.sha256}-{self.orientation}"


class CacheReport(NamedTuple):
    """What a cache holds of the entries asked for. `damaged` counts shards that were put away as unreadable."""

    present: int
    missing: tuple[Entry, ...]
    damaged: int
    entry_bytes: int

    @property
    def missing_bytes(self) -> int:
        """What the missing entries will take on disk."""
        return len(self.missing) * self.entry_bytes

    @property
    def total_bytes(self) -> int:
        """What all entries asked for take on disk."""
        return (self.present + len(self.missing)) * self.entry_bytes


class EmbeddingCache:
    """Maps of one teacher under one folder. Opening reads the shards' headers; writing needs no lock."""

    def __init__(self, folder: Path, teacher: Teacher, layers: Sequence[int], precision: str) -> None:
        settings = {"preprocessing": teacher.preprocessing.model_dump(), "layers": list(layers), "precision": precision}
        self._settings = json.dumps(settings, sort_keys=True)
        kind = hashlib.sha256(self._settings.encode()).hexdigest()
        self.folder = folder / f"{teacher.fingerprint[:16]}-{kind[:8]}"
        self._fingerprint = teacher.fingerprint
        self._shapes = [(teacher.channels, *teacher.grid_hw)]
        self._shapes += [(teacher.layer_channels, *teacher.grid_hw) for _ in layers]
        self._shard_of: dict[str, Path] = {}

    @property
    def entry_bytes(self) -> int:
        """Bytes of one picture's maps."""
        return sum(channels * rows * columns * _BYTES for channels, rows, columns in self._shapes)

    def look_up(self, entries: Sequence[Entry], *, tidy: bool = True) -> CacheReport:
        """Reads what is there; with `tidy`, removes shards that cannot be used, so that they are computed anew."""
        self._shard_of, damaged = {}, 0
        if tidy and self.folder.is_dir():
            _remove_abandoned(self.folder)
        for shard in sorted(self.folder.glob("maps-*.safetensors")):
            keys = self._keys(shard)
            if keys is None:
                damaged += 1
                if tidy:
                    shard.unlink(missing_ok=True)
                continue
            self._shard_of.update(dict.fromkeys(keys, shard))
        wanted = dict.fromkeys(entries)
        missing = tuple(entry for entry in wanted if entry.key not in self._shard_of)
        return CacheReport(len(wanted) - len(missing), missing, damaged, self.entry_bytes)

    def write_shard(self, maps: dict[Entry, tuple[Tensor, ...]]) -> Path:
        """Writes some entries' maps, each (c, h, w), as one shard. DataError where float16 cannot hold them."""
        tensors, checksums = {}, {}
        for entry, own in maps.items():
            halves = [each.detach().to("cpu", torch.float16).contiguous() for each in own]
            if [tuple(half.shape) for half in halves] != self._shapes:
                raise DataError(f"maps {[tuple(h.shape) for h in halves]} of {entry.key}: expected {self._shapes}")
            if not all(bool(torch.isfinite(half).all()) for half in halves):
                raise DataError(
                    f"the teacher's maps of the picture {entry.sha256[:12]} are not finite in float16: such a teacher "
                    "cannot be cached; check its weights, or let it run along without a cache"
                )
            tensors.update({f"{entry.key}/{i}": half for i, half in enumerate(halves)})
            checksums[entry.key] = _checksum(halves)
        name = hashlib.sha256("\n".join(checksums).encode()).hexdigest()[:16]
        path = self.folder / f"maps-{name}.safetensors"
        partial = self.folder / f".{path.name}.{os.getpid()}.partial"
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata=self._metadata() | {"checksums": json.dumps(checksums)})
        partial.replace(path)
        self._shard_of.update(dict.fromkeys(checksums, path))
        return path

    def read(self, entry: Entry) -> tuple[Tensor, ...]:
        """The maps (c, h, w) float16 of an entry. DataError where it is not there, or not what was written."""
        path = self._shard_of.get(entry.key)
        if path is None:
            raise DataError(f"the embedding cache {self.folder} has no entry {entry.key}: fill it first")
        try:
            with safe_open(path, framework="pt") as shard:
                expected = json.loads(shard.metadata()["checksums"])[entry.key]
                maps = tuple(shard.get_tensor(f"{entry.key}/{i}") for i in range(len(self._shapes)))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise _damaged(path, str(error)) from error
        if _checksum(maps) != expected:
            raise _damaged(path, f"the checksum of {entry.key} differs")
        return maps

    def _keys(self, path: Path) -> list[str] | None:
        """Entries of a shard by its header, None where it is cut short, not a shard of this cache, or incomplete."""
        try:
            with safe_open(path, framework="pt") as shard:
                metadata = shard.metadata() or {}
                names = set(shard.keys())
                keys = list(json.loads(metadata.get("checksums", "{}")))
                shapes = [list(shard.get_slice(f"{keys[0]}/{i}").get_shape()) for i in range(len(self._shapes))]
        except (SafetensorError, OSError, ValueError, IndexError):
            return None
        complete = names == {f"{key}/{i}" for key in keys for i in range(len(self._shapes))}
        ours = all(metadata.get(name) == value for name, value in self._metadata().items())
        return keys if complete and ours and shapes == [list(shape) for shape in self._shapes] else None

    def _metadata(self) -> dict[str, str]:
        return {"version": VERSION, "teacher": self._fingerprint, "settings": self._settings}


def shards(entries: Sequence[Entry]) -> Iterator[tuple[Entry, ...]]:
    """The entries in portions of one shard each."""
    for start in range(0, len(entries), ENTRIES_PER_SHARD):
        yield tuple(entries[start : start + ENTRIES_PER_SHARD])


def _checksum(maps: Sequence[Tensor]) -> int:
    value = 0
    for each in maps:
        value = zlib.crc32(each.contiguous().view(-1).view(torch.uint8).numpy().data, value)
    return value


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"the shard {path} of the embedding cache is damaged or was edited ({reason}): delete this file and start "
        "again; its entries alone are computed anew"
    )


def _remove_abandoned(folder: Path) -> None:
    now = time.time()
    for partial in folder.glob(".maps-*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its run has finished it, or another one removed it
            if now - partial.stat().st_mtime > ABANDONED_AFTER_S:
                partial.unlink()
