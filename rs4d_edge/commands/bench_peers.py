"""The peers of `rs4d-bench --peer`: what they are, whether they can be measured here, and how they are opened.

Nothing of theirs is imported before they are measured, which is after the bundles: PyTorch in the process would show in
the bundles' memory. What has to be tried before is tried in a process of its own (`python -m` this module).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rs4d_edge.bench.streams import FramePath, Opener
from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.errors import InputError, RS4DError, RuntimeUnavailable
from rs4d_edge.frames import Frame
from rs4d_edge.machine import is_installed

PUBLISHED, SAM = "published", "sam-vit-b"
KNOWN = f"{PUBLISHED}, {PUBLISHED}=CHECKPOINT, {SAM} or an ONNX file"
TORCH = ("torch", "transformers")
PREFIX = "peer: "
SAM_RECORD = {
    "model": "SAM ViT-B",
    "runtime": "torch",
    "precision": "fp32",
    "input_hw": [1024, 1024],
    "weights": "random: its time does not depend on them",
    "about": "SAM ViT-B's image encoder at 1024x1024 by transformers, in eager PyTorch. An encoder alone: prompts and "
    "mask decoder would come on top.",
}


@dataclass(frozen=True)
class Peer:
    """What is measured beside bundles: its record so far, how it is opened, and which bundle it stands beside.

    `place` is that of the bundle whose frame it runs on and whose time its own is told over.
    """

    record: dict[str, Any]
    opener: Opener
    place: int
    packages: tuple[str, ...]


def find_peers(
    words: Sequence[str], bundles: Sequence[Bundle], frames: Sequence[Frame], threads: int | None
) -> list[Peer]:
    """The peers that `--peer` named, with `published` once for each model among the bundles.

    A peer runs on its bundle's frame, or where it belongs to none, on the first bundle's. `InputError` for what is no
    peer or cannot be fed, `RuntimeUnavailable` where its packages are not installed.
    """
    if len(set(words)) < len(words):
        raise InputError(f"--peer {' --peer '.join(words)}: name each once")
    found = [peer for word in words for peer in _peers_of(word, bundles, threads)]
    labels = [peer.record["label"] for peer in found]
    for peer in found:
        if labels.count(peer.record["label"]) > 1:  # files of one name in several folders, or sizes of one model
            peer.record["label"] = f"{PREFIX}{peer.record['peer']} {'x'.join(map(str, peer.record['input_hw']))}"
        peer.record.update(frame_hw=list(frames[peer.place].shape[:2]), threads=threads)
    return found


def _peers_of(word: str, bundles: Sequence[Bundle], threads: int | None) -> Iterator[Peer]:
    kind, _, file = word.partition("=")
    if word == SAM:
        _require(word, TORCH, "distill")
        yield _peer(word, "SAM ViT-B encoder", SAM_RECORD, partial(_open_sam, threads), 0, TORCH)
    elif kind == PUBLISHED:
        _require(word, TORCH, "distill")
        checkpoint = _file(word, file) if file else None
        for place in _distinct(bundles)[: 1 if checkpoint else None]:
            known = _tried(word, PUBLISHED, bundles[place].path, checkpoint or "")
            opener = partial(_open_published, bundles[place], checkpoint, threads)
            yield _peer(word, f"published {known['model']}", known, opener, place, TORCH)
    else:
        path = _file(word, word)
        _require(word, ("onnxruntime",), "onnx")
        size_hw = bundles[0].manifest.contract.image_size_hw
        known = _tried(word, "onnx", path, *size_hw)
        opener = partial(_open_onnx, path, size_hw, threads)
        yield _peer(word, path.name, known, opener, 0, ("onnxruntime",))


def _peer(word: str, name: str, known: dict[str, Any], opener: Opener, place: int, packages: tuple[str, ...]) -> Peer:
    interpreted = word.partition("=")[0] == PUBLISHED
    record = {
        "peer": word,
        "label": f"{PREFIX}{name}",
        **known,
        "interpreted": interpreted,
        "masks_rendered": interpreted,
        "accuracy": None,
    }
    return Peer(record, opener, place, packages)


def _distinct(bundles: Sequence[Bundle]) -> list[int]:
    """The places of the first bundle of each model at each input size."""
    models = [(bundle.manifest.name, bundle.manifest.contract.image_size_hw) for bundle in bundles]
    return [place for place, model in enumerate(models) if models.index(model) == place]


def _file(word: str, file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise InputError(f"--peer {word}: there is no file {file}; expected {KNOWN}")
    return path


def _require(word: str, packages: Sequence[str], extra: str) -> None:
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        raise RuntimeUnavailable(
            f"--peer {word} needs {' and '.join(packages)}; not installed here: {', '.join(missing)}. "
            f'Run: pip install "rs4d-edge[{extra}]"'
        )


def _tried(word: str, *arguments: object) -> dict[str, Any]:
    """What `describe` says in a process of its own; `InputError` with what it raised."""
    command = [sys.executable, "-m", "rs4d_edge.commands.bench_peers", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeUnavailable(f"--peer {word}: trying it ended with status {done.returncode}: {last}")
    known: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in known:
        raise InputError(f"--peer {word}: {known['error']}")
    return known


def describe(kind: str, *arguments: str) -> dict[str, Any]:
    """`published BUNDLE CHECKPOINT`, the last perhaps empty, or `onnx FILE HEIGHT WIDTH`, as a part of its record."""
    if kind == PUBLISHED:
        from rs4d_edge.commands import peer_published

        bundle, checkpoint = arguments
        return peer_published.describe(open_bundle(bundle).manifest, Path(checkpoint) if checkpoint else None)
    from rs4d_edge.commands import peer_onnx

    file, height, width = arguments
    return peer_onnx.describe(Path(file), (int(height), int(width)))


def _open_sam(threads: int | None) -> FramePath:
    from rs4d_edge.commands import peer_sam

    return peer_sam.open_path(threads)


def _open_published(bundle: Bundle, checkpoint: Path | None, threads: int | None) -> FramePath:
    from rs4d_edge.commands import peer_published

    return peer_published.open_path(bundle.manifest, checkpoint, threads)


def _open_onnx(path: Path, size_hw: tuple[int, int], threads: int | None) -> FramePath:
    from rs4d_edge.commands import peer_onnx

    return peer_onnx.open_path(path, size_hw, threads)


def main() -> None:
    """Describe one peer as JSON on the last line of standard output; a deliberate error as well."""
    try:
        known = describe(*sys.argv[1:])
    except RS4DError as error:
        known = {"error": str(error)}
    print(json.dumps(known))


if __name__ == "__main__":
    main()
