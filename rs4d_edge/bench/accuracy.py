"""Mask AP beside the times: what a bundle's manifest tells, or what rs4d-eval measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rs4d_edge.errors import InputError
from rs4d_edge.manifest import Manifest

REFERENCE = "the reference at the export"
MEASURED = "this bundle, by rs4d-eval"


def accuracy_record(manifest: Manifest) -> dict[str, Any] | None:
    """Mask and box AP that the reference had on a data set, if the export measured it: not those of this format."""
    known = manifest.accuracy
    if known is None:
        return None
    return {"mask_ap": known.masks.ap, "box_ap": known.boxes.ap, "of": REFERENCE, "data": known.annotations}


def add_accuracy(records: Sequence[dict[str, Any]], files: Sequence[Path]) -> None:
    """Set the accuracy of those bundles that the JSON files of rs4d-eval are of, told by the folder's path or name."""
    for path in files:
        figures = _read(path)
        source = Path(figures["source"])
        same = [each for each in records if Path(each["bundle"]).resolve() == source.resolve()]
        named = same or [each for each in records if each["label"] == source.resolve().name]
        if len(named) != 1:
            what = "none" if not named else f"{len(named)}"
            raise InputError(
                f"{path} has the accuracy of {source}, and {what} of the bundles here has that name: "
                f"expected one of {', '.join(each['label'] for each in records)}"
            )
        named[0]["accuracy"] = {
            "mask_ap": figures["segm"]["AP"],
            "box_ap": figures["bbox"]["AP"],
            "of": MEASURED,
            "data": Path(figures["data"]).name,
        }


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(content["source"], str) and isinstance(content["data"], str)
        if known and all("AP" in content[kind] for kind in ("segm", "bbox")):
            return content
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a file that rs4d-eval --json wrote ({error!r})") from error
    raise InputError(f"{path} is not a file that rs4d-eval --json wrote: it lacks mask or box AP")
