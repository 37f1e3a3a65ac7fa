"""Reading metrics.jsonl: what a training run wrote of its steps and evaluations, as typed records."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rs4d_edge.errors import DataError


class TrainRecord(BaseModel):
    """Means of the loss parts since the record before; the other numbers are those of the step itself.

    `lr` learning rate, `norm` the gradient's norm before clipping, `size` the input's larger side in pixels, `waiting`
    the share of the step (0 to 1) that was spent waiting for data. All fields without a name here are losses; `loss` is
    their sum.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    step: int
    progress: float = math.nan
    lr: float = math.nan
    norm: float = math.nan
    size: float = math.nan
    images_per_s: float = math.nan
    waiting: float = math.nan

    @property
    def losses(self) -> dict[str, float]:
        """The sum and its parts by name."""
        return self.__pydantic_extra__


class Precision(BaseModel):
    """Average precision, fractions of 1; None where there is no object to find."""

    AP: float | None = None
    AP50: float | None = None


class KindFigures(Precision):
    """Of all boxes or of all masks."""

    per_class: dict[str, Precision] = {}


class Confusion(BaseModel):
    """What `rs4d_edge.evaluation.confusion.confusion_matrix` returned."""

    classes: list[str]
    matrix: list[list[int]]
    score_threshold: float
    iou_threshold: float

    @model_validator(mode="after")
    def _square(self) -> Confusion:
        side = len(self.classes) + 1
        if [len(row) for row in self.matrix] != [side] * side:
            raise ValueError(f"the confusion matrix of {side - 1} classes needs {side} rows of {side} counts")
        return self


class Evaluation(BaseModel):
    """One evaluation on the validation data. Runs of older versions have no confusion."""

    step: int
    elapsed_s: float | None = None
    images: int | None = None
    detections: int | None = None
    bbox: KindFigures
    segm: KindFigures
    confusion: Confusion | None = None


@dataclass
class RunMetrics:
    """The records of one run, steps ascending. `unreadable` counts the lines that hold no whole record."""

    train: list[TrainRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    unreadable: int = 0

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest mask AP, the first of equals: whose weights the trainer keeps as best."""
        return max(self.evaluations, key=lambda each: -1.0 if each.segm.AP is None else each.segm.AP, default=None)

    @property
    def last_step(self) -> int:
        """The last step that left a record; 0 if none did."""
        steps = [each.step for each in self.train[-1:]] + [each.step for each in self.evaluations[-1:]]
        return max(steps, default=0)

    def add(self, record: TrainRecord | Evaluation) -> None:
        """Appends a record. One of a step already passed was written by a resumed run, which does what follows again.

        A step's evaluation comes after its training record and does not displace it.
        """
        kept = record.step + (not isinstance(record, TrainRecord))
        if record.step <= self.last_step:
            self.train = [each for each in self.train if each.step < kept]
            self.evaluations = [each for each in self.evaluations if each.step < record.step]
        if isinstance(record, TrainRecord):
            self.train.append(record)
        else:
            self.evaluations.append(record)

    def add_line(self, line: bytes) -> None:
        """Appends the record of one line; of kinds other than "train" and "val" nothing is kept."""
        try:
            content = json.loads(line)
            kind = content.pop("kind")
            if kind == "train":
                self.add(TrainRecord.model_validate(content))
            elif kind == "val":
                self.add(Evaluation.model_validate(content))
        except (ValueError, TypeError, KeyError, AttributeError):  # cut short, or JSON but no record
            self.unreadable += 1


def read_metrics(path: Path) -> RunMetrics:
    """Reads the file that `RunLog` wrote, also one that is being written, was cut short by a kill, or was resumed.

    `DataError`: there is no such file, or it cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): name the folder of a run of rs4d-train, which holds that file"
        ) from error
    metrics = RunMetrics()
    for line in filter(bytes.strip, lines):
        metrics.add_line(line)
    return metrics
