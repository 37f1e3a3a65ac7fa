"""What a machine without a compiler must still do, run as a program: `python -m tests.house.plain_path FOLDER`.

Exports a tiny detector for every target of CPUs by the command that a user types, then finds objects with each bundle.
Writes `report.json` into the folder.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from onnx import ModelProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.export import command, pipeline
from rs4d_edge.export.graph import translate
from rs4d_edge.export.recipes import Target
from rs4d_edge.matching import compare_detections
from rs4d_edge.native.build import SOURCE_DIR
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.scenes import generate_scene
from tests.export.conftest import tiny_detector


def translating_once() -> AbstractContextManager[object]:
    """All exports share the first one's translation of the model, which takes most of the time."""
    kept: list[ModelProto] = []

    def copy_of_the_first(model: RS4D, batch: int = 1) -> ModelProto:
        if not kept:
            kept.append(translate(model, batch))
        copied = ModelProto()
        copied.CopyFrom(kept[0])
        return copied

    return patch.object(pipeline, "translate", copy_of_the_first)


def try_bundle(path: Path, model: RS4D) -> dict[str, Any]:
    """What the bundle's gate compared, and how far its detections in another frame are from the model's."""
    manifest = open_bundle(path).manifest
    frame = generate_scene(5, (128, 100)).image
    with Predictor(path, threads=1) as exported, Predictor(path, threads=1) as again, Predictor(model) as reference:
        wanted = reference.run(frame)
        comparisons = [compare_detections(wanted, each.run(frame), match_iou=0.95) for each in (exported, again)]
    return {
        "scan": manifest.options["scan"],
        "compared": manifest.parity.detections.matched,
        "found": [len(each.matches) for each in comparisons],
        "lonely": [len(each.lonely) for each in comparisons],
        "score_difference": max(match.score for each in comparisons for match in each.matches),
    }


def main(folder: Path) -> None:
    """Export, open and run for each target of CPUs."""
    model = tiny_detector()
    checkpoint = save_checkpoint(model, folder / "tiny.safetensors")
    report: dict[str, Any] = {"imported_from": str(SOURCE_DIR)}
    with translating_once():
        for target in (Target.ONNX, Target.CPU):
            out = folder / target.value
            command.app([str(checkpoint), "--target", target.value, "--out", str(out)], standalone_mode=False)
            report[target.value] = try_bundle(out, model)
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
