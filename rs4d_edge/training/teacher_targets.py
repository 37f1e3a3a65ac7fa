"""What a batch's student shall give: the teacher's maps, computed now or read from the cache, on the student's grid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rs4d_edge.errors import DataError, InputError
from rs4d_edge.training.distill_samples import DistillBatch, oriented, read_rgb
from rs4d_edge.training.distill_settings import PATCH_PX
from rs4d_edge.training.embedding_cache import CacheReport, EmbeddingCache, Entry, shards
from rs4d_edge.training.student import Maps, resample
from rs4d_edge.training.teachers import Teacher, normalise, picture_mask
from rs4d_edge.training.unlabelled import UnlabelledImage, file_sha256

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Targets(NamedTuple):
    """Maps (B, c, h, w) fp32 on the student's grid, and which of its cells (B, h, w) hold picture."""

    maps: Maps
    cells: Tensor


class TargetMaker:
    """Runs the teacher, in fp32 or under autocast, and brings its maps to where the student's are compared."""

    def __init__(self, teacher: Teacher, layers: Sequence[int], precision: str, device: torch.device) -> None:
        self._teacher, self._layers, self._precision, self._device = teacher, tuple(layers), precision, device
        self._moved = False

    def embed(self, frame: Tensor, valid_hw: Tensor) -> Maps:
        """Maps on the teacher's own grid of padded frames uint8 (B, T, T, 3)."""
        if not self._moved:  # only once it is needed: with a full cache a large teacher never takes the device's memory
            self._teacher.move_to(self._device)
            self._moved = True
        image = normalise(frame.to(self._device), valid_hw, self._teacher.preprocessing)
        dtype = _AUTOCAST.get(self._precision)
        with torch.autocast(self._device.type, dtype, enabled=dtype is not None):
            return self._teacher.embed(image, self._layers)

    def __call__(self, batch: DistillBatch) -> Targets:
        """Targets of a batch, on the device."""
        grid_hw = (batch.frame.shape[1] // PATCH_PX, batch.frame.shape[2] // PATCH_PX)
        cells = picture_mask(batch.valid_hw.to(self._device), grid_hw, PATCH_PX)
        if batch.maps is not None:
            return Targets(resample(tuple(each.to(self._device) for each in batch.maps), grid_hw), cells)
        if batch.teacher_frame is None or batch.teacher_valid_hw is None:
            raise InputError("a batch without the teacher's frames needs cached maps")
        return Targets(resample(self.embed(batch.teacher_frame, batch.teacher_valid_hw), grid_hw), cells)


def fill_cache(
    cache: EmbeddingCache,
    entries: Sequence[Entry],
    images: Sequence[UnlabelledImage],
    teacher: Teacher,
    maker: TargetMaker,
    fabric: Fabric,
    console: Console,
) -> CacheReport:
    """Computes what the cache lacks of `entries`, each process its share. Says first how large it is and will be."""
    report = cache.look_up(entries, tidy=fabric.global_rank == 0)
    fabric.barrier("cache looked up")  # before anyone writes
    console.print(cache_message(report, cache.folder), soft_wrap=True)
    if report.missing:
        _check_space(cache.folder, report.missing_bytes)
        _compute(cache, report.missing[fabric.global_rank :: fabric.world_size], images, teacher, maker, console)
        fabric.barrier("cache filled")
        rest = cache.look_up(entries, tidy=False).missing
        if rest:
            raise DataError(f"{len(rest)} embeddings are still not in {cache.folder}: did another process fail?")
    return report


def cache_message(report: CacheReport, folder: Path) -> str:
    """One line: size in all, what is there, what has to be computed."""
    damaged = f"; {report.damaged} damaged shards are computed anew" if report.damaged else ""
    return (
        f"embedding cache {folder}: {report.present + len(report.missing)} entries of {readable(report.entry_bytes)}, "
        f"{readable(report.total_bytes)} in all; {report.present} there, {len(report.missing)} "
        f"({readable(report.missing_bytes)}) to compute{damaged}"
    )


def readable(count: float) -> str:
    """Bytes in the unit that gives one to three digits before the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _check_space(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"the embedding cache needs {readable(needed)} more in {folder}, where {readable(free)} are free: name "
            "another disk, show one orientation alone (--no-turns), or let the teacher run along (no --cache)"
        )


def _compute(
    cache: EmbeddingCache,
    entries: Sequence[Entry],
    images: Sequence[UnlabelledImage],
    teacher: Teacher,
    maker: TargetMaker,
    console: Console,
) -> None:
    by_content = {image.sha256: image for image in images}
    columns = (TextColumn("teacher"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=1) as bar:
        task = bar.add_task("teacher", total=len(entries))
        for shard in shards(entries):
            found = {}
            for entry in shard:
                found[entry] = _maps_of(by_content[entry.sha256], entry, teacher, maker)
                bar.advance(task)
            cache.write_shard(found)


def _maps_of(image: UnlabelledImage, entry: Entry, teacher: Teacher, maker: TargetMaker) -> Maps:
    """Maps (c, h, w) of one picture: one at a time, so that an entry does not depend on its neighbours in a batch."""
    if file_sha256(image.path) != entry.sha256:
        raise DataError(f"{image.path} has changed since it was listed: start again")
    frame, valid_hw = teacher.preprocessing.frame(oriented(read_rgb(image), entry.orientation))
    maps = maker.embed(torch.from_numpy(frame)[None], torch.tensor([valid_hw]))
    return tuple(each[0] for each in maps)
