"""`make demo`: export the shipped model for this machine, then find objects in a frame with the exported bundle."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rs4d_edge.commands.terminal import run_app
from rs4d_edge.detections import Detections
from rs4d_edge.errors import InputError
from rs4d_edge.frames import read_image
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import NWPU_CLASSES
from rs4d_edge.reference.shipped import shipped_names
from rs4d_edge.scenes import Scene, generate_scene

DEMO_SEED = 17  # sports grounds, a car park and a road: five classes
DEMO_SCORE = 0.3
_COMMANDS = {"rs4d-export": "rs4d_edge.export.command", "rs4d-predict": "rs4d_edge.commands.predict"}
_SAME_OBJECT_IOU = 0.5

app = typer.Typer(add_completion=False)
console = Console()


class Tally(NamedTuple):
    """Of one class: how many objects were drawn, how many detections there are, how many of them are right."""

    drawn: int
    detected: int
    right: int


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option(help="A picture of your own; without it, a scene is drawn")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the bundle, the frame and the results")] = Path("demo"),
    model: Annotated[
        str | None, typer.Option(help="A shipped model's name or a checkpoint; default: the first shipped")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which scene is drawn")] = DEMO_SEED,
    calib: Annotated[
        Path | None, typer.Option(help="Photographs (a folder or a COCO file) to calibrate int8 on; default: fp32")
    ] = None,
) -> None:
    """Show the whole path: export, proof of parity, detections in a frame."""
    name = model or default_model()
    if image is not None and not image.is_file():
        raise InputError(f"there is no picture at {image}: give a file, make demo IMAGE=path")
    if calib is not None and not calib.exists():
        raise InputError(f"there is nothing at {calib}: give a folder of photographs, make demo CALIB=folder")
    bundle, frame = out / f"{Path(name).stem}-cpu", image or out / "scene.png"
    scene = None
    if image is None:
        scene = generate_scene(seed)
        write_picture(scene.image, frame)
    run_command("rs4d-export", name, "--target", "cpu", *precision_options(calib), "--out", str(bundle), "--overwrite")
    saving = ("--out", str(out / "results"), "--save", "overlay,coco", "--score", str(DEMO_SCORE))
    run_command("rs4d-predict", str(bundle), str(frame), *saving)
    with Predictor(bundle, score_threshold=DEMO_SCORE) as predictor:
        predictor.run(read_image(frame), color="BGR")  # the first run pays for warming up
        detections = predictor.run(read_image(frame), color="BGR")
    show(detections, scene)
    overlay = out / "results" / f"{frame.stem}.overlay.jpg"
    console.print(f"picture with masks: [bold green]{escape(str(overlay))}[/bold green]", soft_wrap=True)


def precision_options(calib: Path | None) -> tuple[str, ...]:
    """int8 where there are photographs to calibrate on; drawn scenes would not do, and none come with rs4d-edge.

    Of the shipped nano's forms it has the best mask AP. Only int8-bf16 is faster, which not every processor can run.
    """
    return () if calib is None else ("--precision", "int8", "--calib", str(calib))


def default_model() -> str:
    """The first shipped model; InputError if none came with this copy."""
    names = shipped_names()
    if not names:
        raise InputError("no trained weights came with this copy of rs4d-edge (rs4d_edge/shipped/*.safetensors)")
    return names[0]


def run_command(command: str, *arguments: str) -> None:
    """Print a command as a user would type it, and run it; its failure ends the demo with its status."""
    console.print(f"\n[bold]$ {escape(shlex.join([command, *arguments]))}[/bold]", soft_wrap=True)
    done = subprocess.run([sys.executable, "-m", _COMMANDS[command], *arguments], check=False)
    if done.returncode:
        Console(stderr=True).print(f"[red]The demo stops: {command} ended with status {done.returncode}.[/red]")
        raise typer.Exit(done.returncode)


def write_picture(image_rgb: NDArray[np.uint8], path: Path) -> None:
    """Write an RGB picture as PNG, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, packed = cv2.imencode(".png", image_rgb[..., ::-1])
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".scene-", delete=False) as file:
        file.write(packed.tobytes())
    os.replace(file.name, path)


def show(detections: Detections, scene: Scene | None) -> None:
    """Print what was found, by class, beside what was drawn if that is known."""
    console.print()
    if scene is None:
        table = Table("class", title="Found in your picture")
        table.add_column("objects", justify="right")
        for name in sorted(set(detections.class_names)):
            table.add_row(name, str(detections.class_names.count(name)))
    else:
        table = Table("class", title="The drawn scene, whose objects are known")
        for heading in ("drawn", "detected", f"right (IoU > {_SAME_OBJECT_IOU})"):
            table.add_column(heading, justify="right")
        for name, tally in tallies(detections, scene).items():
            table.add_row(name, *map(str, tally))
    console.print(table)
    stages = detections.timings
    console.print(
        f"one frame: resize {stages.resize_ms:.1f} ms, inference {stages.infer_ms:.1f} ms, "
        f"detections {stages.post_ms:.1f} ms"
    )


def tallies(detections: Detections, scene: Scene) -> dict[str, Tally]:
    """Compare detections with a drawn scene, class by class; a drawn object is found by one detection at most."""
    found = [NWPU_CLASSES.index(name) if name in NWPU_CLASSES else -1 for name in detections.class_names]
    right = dict.fromkeys(range(len(NWPU_CLASSES)), 0)
    open_objects = set(range(len(scene.labels)))
    for box, label in zip(detections.boxes_xyxy, found, strict=True):
        overlaps = {index: _iou(box, scene.boxes[index]) for index in open_objects if scene.labels[index] == label}
        best = max(overlaps, key=lambda index: overlaps[index], default=None)
        if best is not None and overlaps[best] > _SAME_OBJECT_IOU:
            open_objects.remove(best)
            right[label] += 1
    drawn = np.bincount(scene.labels, minlength=len(NWPU_CLASSES)).tolist()
    return {
        name: Tally(drawn[label], found.count(label), right[label])
        for label, name in enumerate(NWPU_CLASSES)
        if drawn[label] or found.count(label)
    }


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
