"""The gate: an export that was not compared with the reference does not exist.

Names, types and shapes first, then the tensors ahead of the first selection, then the detections on golden frames.
The reference is the torch model in fp32 on the same frames, prepared by the Predictor's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rs4d_edge.calibration.frames import PreparedBatch, prepare
from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES, ModelContract
from rs4d_edge.detection_parity import DetectionCheck
from rs4d_edge.detections import Detections
from rs4d_edge.errors import ParityError, RuntimeFailure
from rs4d_edge.export.bisect import FeatureDifference, compare_features
from rs4d_edge.frames import Frame
from rs4d_edge.manifest import ParityRecord, TensorParity
from rs4d_edge.predictor import to_detections
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.contract import Runtime, TensorSpec
from rs4d_edge.tolerances import Tolerances

Array = npt.NDArray[Any]


@dataclass
class Comparison:
    """What was measured on all golden frames: `features` in the order of computation, `detections` frame by frame.

    `references` are the reference's detections, `cuts` the lowest scores of its lists where they were full.
    """

    limits: Tolerances
    features: dict[str, FeatureDifference] = field(default_factory=dict)
    references: list[Detections] = field(default_factory=list)
    cuts: list[float | None] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    detections: DetectionCheck = field(init=False)

    def __post_init__(self) -> None:
        self.detections = DetectionCheck(self.limits)

    def first_departing(self) -> FeatureDifference | None:
        """The first intermediate result that is further from the reference than its limit."""
        return next((each for each in self.features.values() if each.departs(self.limits)), None)

    def require(self) -> None:
        """Raise ParityError, with everything that is wrong, unless the export is as good as the reference."""
        if not self.complaints:
            return
        first = self.first_departing()
        where = f"The first result that departs is {first}. " if first else "All intermediate results agree. "
        raise ParityError(
            f"the export does not give what the reference gives: {'; '.join(self.complaints)}. {where}"
            "Nothing was written; --bisect lists every intermediate result"
        )

    def record(self) -> ParityRecord:
        """For the manifest."""
        return ParityRecord(
            frames=len(self.detections.frames),
            tensors=tuple(
                TensorParity(name=each.name, max_abs_diff=each.max_abs, tolerance=each.limit(self.limits.tensor))
                for each in self.features.values()
                if each.dense
            ),
            detections=self.detections.record(),
            tolerances=self.limits.model_dump(),
        )


def check_interface(runtime: Runtime, contract: ModelContract) -> None:
    """Raise ParityError unless the model's inputs and outputs have the contract's names, types and shapes."""
    dtypes = {"frame": "uint8", "valid_hw": "int64", "boxes": "float32", "scores": "float32", "labels": "int64"}
    for what, names, specs, shapes in (
        ("inputs", INPUT_NAMES, runtime.inputs, contract.input_shapes),
        ("outputs", OUTPUT_NAMES, runtime.outputs, contract.output_shapes),
    ):
        wanted = tuple(TensorSpec(name, np.dtype(dtypes.get(name, "float32")), shapes[name]) for name in names)
        if tuple(specs) != wanted:
            raise ParityError(
                f"the export's {what} are {', '.join(map(str, specs))}; expected {', '.join(map(str, wanted))}"
            )


def compare(
    model: RS4D,
    exported: Runtime,
    features: Runtime,
    contract: ModelContract,
    frames: Sequence[Frame],
    limits: Tolerances,
) -> Comparison:
    """Run `frames` (RGB) through the reference and through the export, and note every difference.

    `features` is the export with its intermediate results as outputs.
    """
    check_interface(exported, contract)
    result = Comparison(limits)
    for batch in prepare(frames, contract.image_size_hw, contract.batch):
        _compare_features(result, model, features, batch)
        _compare_detections(result, model, exported, contract, batch)
    result.complaints += [str(each) for each in result.features.values() if each.dense and each.departs(limits)]
    result.complaints += result.detections.complaints()
    return result


def _compare_features(result: Comparison, model: RS4D, features: Runtime, batch: PreparedBatch) -> None:
    with torch.inference_mode():
        expected = model.features(*(torch.from_numpy(batch.feeds[name]) for name in INPUT_NAMES))
    found = features.run(batch.feeds)
    for each in compare_features({name: value.numpy() for name, value in expected.items()}, found):
        known = result.features.get(each.name)
        result.features[each.name] = each if known is None else known.worst_of(each)


def _compare_detections(
    result: Comparison, model: RS4D, exported: Runtime, contract: ModelContract, batch: PreparedBatch
) -> None:
    with torch.inference_mode():
        values = model(*(torch.from_numpy(batch.feeds[name]) for name in INPUT_NAMES))
    expected = {name: value.numpy() for name, value in zip(OUTPUT_NAMES, values, strict=True)}
    found = exported.run(batch.feeds)
    try:
        pairs = [
            to_detections(outputs, batch.geometries, contract, contract.score_threshold)
            for outputs in (expected, found)
        ]
    except RuntimeFailure as error:
        raise ParityError(f"the export's outputs cannot be used: {error}") from error
    for row, (reference, other) in enumerate(zip(*pairs, strict=True)):
        ends = [_full_list_cut(outputs["scores"][row]) for outputs in (expected, found)]
        result.references.append(reference)
        result.cuts.append(ends[0])
        cuts = [contract.score_threshold, *(end for end in ends if end is not None)]
        result.detections.add(reference, other, cuts, 1.0 / min(batch.geometries[row].factors_yx))


def _full_list_cut(scores: Array) -> float | None:
    """The lowest score of a list that has no room left: there may be others just below."""
    lowest = float(scores.min())
    return lowest if lowest > 0 else None
