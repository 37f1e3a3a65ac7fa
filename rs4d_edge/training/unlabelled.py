"""Folders of pictures without labels: what is in them, by content, and which of it stays apart for measuring."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rs4d_edge.errors import DataError, FrameError
from rs4d_edge.frames import IMAGE_SUFFIXES, read_image

INDEX_NAME = "images.jsonl"
_EXAMPLES = 3


class UnlabelledImage(NamedTuple):
    """A readable picture; `sha256` (hexadecimal) is that of its file."""

    path: Path
    sha256: str


class UnlabelledImages(NamedTuple):
    """`images` in the order of their paths, and the files that no picture could be read from, with the reason."""

    images: tuple[UnlabelledImage, ...]
    unreadable: tuple[tuple[Path, str], ...]

    def digest(self) -> str:
        """SHA-256 of the contents in their order: two runs on equal digests see the same pictures in the same order."""
        return hashlib.sha256("\n".join(image.sha256 for image in self.images).encode()).hexdigest()

    def split(self, share: float) -> tuple[UnlabelledImages, UnlabelledImages]:
        """(pictures to train on, pictures kept apart), the latter chosen by content: copies of one stay together.

        A picture stays apart whichever others lie beside it, as far as the share allows.
        """
        kinds = sorted({image.sha256 for image in self.images})
        apart = set(kinds[: round(share * len(kinds))])
        return (
            UnlabelledImages(tuple(i for i in self.images if i.sha256 not in apart), self.unreadable),
            UnlabelledImages(tuple(i for i in self.images if i.sha256 in apart), ()),
        )


def list_images(
    folders: Sequence[Path],
    index: Path | None = None,
    *,
    leave_out: Collection[str] = (),
    limit: int | None = None,
    workers: int = 2,
    shown: Callable[[int, int], None] | None = None,
) -> UnlabelledImages:
    """Every picture below the folders, decoded once to see that it can be; hidden files are passed over.

    `index` is a file that keeps what was found, so that a later call reads only files that are new or changed (by size
    and time of change). Files with a name in `leave_out` are passed over, and `limit` takes the first so many of the
    rest. `shown(done, all)` is called on the way. Raises DataError for a folder that does not exist and where no
    picture is left.
    """
    below = [path for folder in folders for path in _pictures_below(folder)]
    paths = [path for path in below if path.name not in leave_out][:limit]
    named = ", ".join(map(str, folders))
    if not paths:
        left_out = f" beside the {len(below)} left out by name" if below else ""
        raise DataError(f"no image in {named}{left_out}: expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    known = _read_index(index)
    entries: dict[Path, dict[str, Any]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for path, entry in zip(paths, pool.map(lambda path: _entry(path, known), paths), strict=True):
            entries[path] = entry
            if shown is not None:
                shown(len(entries), len(paths))
    if index is not None:
        _write_index(index, list(entries.values()))
    images = tuple(UnlabelledImage(path, entry["sha256"]) for path, entry in entries.items() if not entry["reason"])
    unreadable = tuple((path, entry["reason"]) for path, entry in entries.items() if entry["reason"])
    if not images:
        examples = "; ".join(reason for _, reason in unreadable[:_EXAMPLES])
        raise DataError(f"none of the {len(paths)} image files in {named} can be read: {examples}")
    return UnlabelledImages(images, unreadable)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes (hexadecimal)."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _pictures_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _entry(path: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One line of the index: where and what the file is, and why it cannot be used ("" where it can)."""
    state = path.stat()
    place: dict[str, Any] = {"path": str(path.absolute()), "bytes": state.st_size, "changed_ns": state.st_mtime_ns}
    held = known.get(str(place["path"]))
    if held is not None and all(held[key] == value for key, value in place.items()):
        return held
    try:
        read_image(path)
    except FrameError as error:
        return {**place, "sha256": "", "reason": str(error)}
    return {**place, "sha256": file_sha256(path), "reason": ""}


def _read_index(index: Path | None) -> dict[str, dict[str, Any]]:
    """What an earlier call found; a line that cannot be used is as good as none."""
    if index is None or not index.is_file():
        return {}
    held = {}
    for line in index.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            held[str(entry["path"])] = {key: entry[key] for key in ("path", "bytes", "changed_ns", "sha256", "reason")}
    return held


def _write_index(index: Path, entries: Sequence[dict[str, Any]]) -> None:
    index.parent.mkdir(parents=True, exist_ok=True)
    partial = index.with_name(f".{index.name}.{os.getpid()}.partial")
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    partial.replace(index)
