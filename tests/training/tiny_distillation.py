"""A few coloured pictures, a teacher that looks at colours, and the smallest students; as a program, one run of them.

Arguments of the program: FOLDER OUT DEVICES. FOLDER holds the pictures; the processes write the student into OUT.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.training.distill_settings import DistillSettings, LossWeights, parse_corruption
from rs4d_edge.training.distillation import Distiller, open_fabric
from rs4d_edge.training.teachers import Preprocessing, normalised_channels
from rs4d_edge.training.unlabelled import list_images

SIDE = 64
PAPER_STUDENT = EncoderConfig(channels=16, depth=2, inner_channels=16, state_size=4, image_size_hw=(SIDE, SIDE))
EDGE_STUDENT = PAPER_STUDENT.model_copy(update={"stem_channels": (8, 8, 8)})


def write_pictures(folder: Path, count: int = 6, size_hw: tuple[int, int] = (48, 64)) -> Path:
    """Pictures of large coloured blocks; returns their folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blocks = rng.integers(0, 255, (size_hw[0] // 16, size_hw[1] // 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), np.kron(blocks, np.ones((16, 16, 1), np.uint8)))
    return folder


class ColourTeacher:
    """Embeds each cell's mean colour by a fixed random matrix. Keeps the images that it was shown in `seen`."""

    name = "colours"
    fingerprint = "c0105" * 12
    layer_channels = 5
    depth = 5

    def __init__(self, channels: int = 16, side: int = SIDE, cell: int = 16) -> None:
        self.preprocessing = Preprocessing(side=side)
        self.channels = channels
        self.grid_hw = (side // cell, side // cell)
        self.seen: list[Tensor] = []
        generator = torch.Generator().manual_seed(1)
        self._matrix = torch.randn(channels, 3, generator=generator)
        self._layer = torch.randn(self.layer_channels, 3, generator=generator)

    def move_to(self, device: torch.device) -> None:
        """It computes where its input is."""

    def embed(self, image: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Teacher.embed`."""
        self.seen.append(image.clone())
        colours = functional.adaptive_avg_pool2d(image, self.grid_hw)
        embedding, layer = (torch.einsum("ck,bkhw->bchw", m, colours) for m in (self._matrix, self._layer))
        return (embedding, *(normalised_channels(layer + i) for i in layers))


def settings(**changes: Any) -> DistillSettings:
    """Three epochs of three steps, in fp32."""
    values: dict[str, Any] = {
        "epochs": 3,
        "batch": 2,
        "lr": 3e-3,
        "warmup_steps": 2,
        "holdout": 0.0,
        "evaluations": 0,
        "precision": "32-true",
        "corruption": parse_corruption("0.1:0.2"),
    }
    return DistillSettings(**{**values, **changes})


def distiller(
    pictures: Path, out: Path, *, teacher: Any = None, student: EncoderConfig = PAPER_STUDENT, **options: Any
) -> Distiller:
    """A run over the folder's pictures, on the CPU."""
    cache, devices = options.pop("cache", None), options.pop("devices", 1)
    chosen = settings(cached=cache is not None, **options)
    return Distiller(
        student,
        teacher or ColourTeacher(),
        list_images([pictures]),
        chosen,
        out,
        fabric=open_fabric(chosen, "cpu", devices),
        cache_dir=cache,
        console=Console(file=io.StringIO()),
    )


# What the comparison of one process with two runs: batch norms, layers in between, probes and passes that add up.
SHARED_RUN: dict[str, Any] = {
    "student": EDGE_STUDENT,
    "batch": 4,
    "epochs": 6,
    "accumulate": 1,
    "ema_decay": 0.5,
    "holdout": 0.25,
    "loss": LossWeights(cosine=0.5, layers=0.5, layer_maps=1),
    "corruption": parse_corruption("adaptive").model_copy(update={"probe_every_steps": 1}),
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Where other processes share the cores, threads of tiny operators wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def begin_corrupted(run: Distiller) -> Distiller:
    """The run, its adaptive levels begun high: so short a run does not earn them, and lowers them at each probe."""
    run._train.course.load({"noise": {"level": 0.3}, "mask": {"level": 0.4}})
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    given, written = Path(sys.argv[1]), Path(sys.argv[2])
    begin_corrupted(distiller(given, written, devices=int(sys.argv[3]), cache=written / "cache", **SHARED_RUN)).run()
