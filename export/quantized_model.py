"""The quantized form of what `model_files` writes: calibrated once, then written with any choice of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import ModelProto

from rs4d_edge.calibration.accuracy import AccuracyGoal, ValidationSet
from rs4d_edge.calibration.cache import CalibrationCache
from rs4d_edge.calibration.calibration_set import CalibrationSet, Feeds, open_calibration_set
from rs4d_edge.calibration.identity import identify, key_of
from rs4d_edge.calibration.layers import layer_outputs, quantizable_layers
from rs4d_edge.calibration.sensitivity import ProbedModel, SensitivityRequest
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.errors import InputError
from rs4d_edge.export.compact_constants import compact_constants
from rs4d_edge.export.model_files import Written, for_target
from rs4d_edge.export.quantized_half import keep_ranges, write_half
from rs4d_edge.export.quantizers import open_quantizer
from rs4d_edge.export.recipes import Precision, Recipe
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.quantization_record import AccuracyRecord, CalibrationIdentity, QuantizationRecord
from rs4d_edge.reference.config import DetectorConfig

Note = Callable[[str], None]


@dataclass(frozen=True)
class QuantizationPlan:
    """What a quantized export needs besides its recipe: frames, settings, and the folder where calibrations are kept.

    `high_precision`: layers that are not quantized, besides those that never are. `goal`: the accuracy for which more
    layers are left out. `sensitivity`: the report that is to be written.
    """

    frames: CalibrationSet
    settings: QuantizationSettings = field(default_factory=QuantizationSettings)
    cache: Path | None = None
    high_precision: tuple[str, ...] = ()
    goal: AccuracyGoal | None = None
    sensitivity: SensitivityRequest | None = None

    @property
    def validation(self) -> ValidationSet | None:
        """What mask AP is measured on, if it is."""
        return self.goal or (self.sensitivity.validation if self.sensitivity is not None else None)


class CalibrationRuns:
    """The feeds of a calibration, once more for each pass over them."""

    def __init__(self, frames: CalibrationSet, recipe: Recipe) -> None:
        self._frames, self._recipe = frames, recipe

    def __len__(self) -> int:
        return -(-len(self._frames) // self._recipe.batch)

    def __iter__(self) -> Iterator[Feeds]:
        return self._frames.feeds(self._recipe.image_size_hw, self._recipe.batch)


class QuantizedModel:
    """A calibrated model that can be written again and again. Its files lie in `work` or in the plan's cache."""

    def __init__(
        self,
        graph: ModelProto,
        recipe: Recipe,
        config: DetectorConfig,
        weights: WeightsRecord,
        plan: QuantizationPlan,
        work: Path,
        note: Note = lambda text: None,
    ) -> None:
        """Calibrate, or take what is cached. `config` is that of the model which `graph` was translated from."""
        self._half = recipe.precision.rest is Precision.FP16
        if recipe.target.for_engines:  # TensorRT has no zero points but 0
            changed = {"signed": True, "half_scales": self._half}
            plan = replace(plan, settings=plan.settings.model_copy(update=changed))
        self._recipe, self._config, self._plan, self._work = recipe, config, plan, work
        graph = for_target(graph, recipe)
        self._graph = graph if self._half else compact_constants(graph, config)  # types come first
        self.layers = tuple(quantizable_layers(self._graph))
        self._all_layers = tuple(layer_outputs(self._graph))
        self._quantizer = open_quantizer(recipe.target, self._graph, plan.settings)
        self.identity = identify(
            weights, plan.frames, recipe.image_size_hw, recipe.batch, plan.settings, self._quantizer.tools
        )
        digest = hashlib.sha256(self._graph.SerializeToString(deterministic=True)).hexdigest()
        settings = {**self.identity.settings, "graph": digest, "scan": self._quantizer.scan.value}
        self.identity = self.identity.model_copy(update={"settings": settings})
        name = f"{config.name}-{recipe.target.value}{'-fp16' if self._half else ''}"
        self._calibration = self._calibrated(name, self.identity, note)

    @property
    def groups(self) -> list[frozenset[str]]:
        """Quantized layers that go back to high precision together."""
        return self._quantizer.groups(self._calibration)

    def write(
        self,
        path: Path,
        features_path: Path,
        restored: Collection[str] = (),
        accuracy: AccuracyRecord | None = None,
    ) -> Written:
        """Write the model, and the same with all intermediate results; the layers `restored` are not quantized.

        `accuracy` is how they were chosen.
        """
        quantized = self._quantizer.write(
            self._calibration, {*restored, *self._plan.high_precision}, path, features_path
        )
        record = QuantizationRecord(
            key=key_of(self.identity),
            identity=self.identity,
            source=self._plan.frames.source,
            frames=len(self._plan.frames),
            quantized=tuple(name for name in self._all_layers if name in quantized),
            high_precision=tuple(name for name in self._all_layers if name not in quantized),
            rest=self._recipe.precision.rest.value,
            accuracy=accuracy,
        )
        written = Written(path, features_path, self._quantizer.scan, record)
        if not self._half:
            return written
        return write_half(written, self._calibration, self._plan.frames, self.identity.frames, self._config)

    def probe(self, folder: Path) -> ProbedModel:
        """Write models into `folder` that show the tensors around the quantized layers, with fp32 in place of fp16."""
        return self._quantizer.probe(self._calibration, self._plan.high_precision, folder)

    def _calibrated(self, name: str, identity: CalibrationIdentity, note: Note) -> Path:
        runs = CalibrationRuns(self._plan.frames, self._recipe)
        what = f"calibrate on {len(self._plan.frames)} frames"
        if self._plan.cache is None:
            note(what)
            folder = self._work / "calibration"
            folder.mkdir()
            self._calibrate(runs, folder)
            return folder
        cache = CalibrationCache(self._plan.cache)
        answer = cache.find(name, identity)
        if answer.folder is not None:
            note(f"take the cached calibration: {answer.reason}")
            return answer.folder
        note(f"{what}: {answer.reason}")
        cache.store(name, identity, lambda folder: self._calibrate(runs, folder))
        return self._plan.cache / name

    def _calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        self._quantizer.calibrate(runs, folder)
        if self._half:
            keep_ranges(self._graph, runs, folder)


def check_plan(recipe: Recipe, plan: QuantizationPlan | None) -> None:
    """Raise InputError unless there is a plan exactly where the recipe's precision needs one."""
    precision = recipe.precision
    if precision.needs_frames and plan is None:
        open_calibration_set(None)
    if plan is None or precision.quantized:
        return
    if not precision.takes_frames:
        raise InputError(f"{precision.value} needs no calibration: leave --calib out, or ask for int8")
    if plan.cache is not None or plan.goal is not None or plan.sensitivity is not None or plan.high_precision:
        raise InputError(
            f"{precision.value} takes --calib alone: --calib-cache, --max-drop and --sensitivity are for layers in int8"
        )
