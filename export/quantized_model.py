"""The quantized form of what `model_files` writes: calibrated once, then written with any choice of layers."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

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
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
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


class Quantizer(Protocol):
    """What a target's module offers as `open_quantizer(graph, layers, settings)`; `graph` has all outputs."""

    tools: tuple[str, ...]  # packages whose versions decide the numbers
    scan: ScanForm

    def calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        """The long part: run the model, and put whatever `write` needs into `folder`."""

    def groups(self, calibration: Path) -> list[frozenset[str]]:
        """Layers that are to be restored together for their numbers to be exact again, in the order of computation."""

    def write(self, calibration: Path, restored: Collection[str], path: Path, features_path: Path) -> frozenset[str]:
        """Write the model to `path`, with all outputs to `features_path`, but leave the layers `restored` as they were.

        `calibration` is the folder that `calibrate` filled. Answers with the layers that are quantized: layers that
        share a tensor with one of `restored` may be restored along with it.
        """

    def probe(self, calibration: Path, restored: Collection[str], folder: Path) -> ProbedModel:
        """Write models into `folder` that show the tensors around the quantized layers; the rest is as in `write`."""


_QUANTIZERS = {
    Target.CPU: "rs4d_edge.export.quantized_openvino",
    Target.ONNX: "rs4d_edge.export.quantized_onnx",
    Target.RTX: "rs4d_edge.export.quantized_onnx",
}


class QuantizerModule(Protocol):
    """A module named in the table above."""

    def open_quantizer(self, graph: ModelProto, settings: QuantizationSettings) -> Quantizer:
        """A quantizer of the layers of `graph` that may be."""


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
        if recipe.target is Target.RTX:  # it has no zero points but 0
            plan = replace(plan, settings=plan.settings.model_copy(update={"signed": True}))
        self._recipe, self._plan, self._work = recipe, plan, work
        graph = compact_constants(for_target(graph, recipe), config)
        self.layers = tuple(quantizable_layers(graph))
        self._all_layers = tuple(layer_outputs(graph))
        module = cast(QuantizerModule, importlib.import_module(_QUANTIZERS[recipe.target]))
        self._quantizer = module.open_quantizer(graph, plan.settings)
        self.identity = identify(
            weights, plan.frames, recipe.image_size_hw, recipe.batch, plan.settings, self._quantizer.tools
        )
        digest = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()
        settings = {**self.identity.settings, "graph": digest, "scan": self._quantizer.scan.value}
        self.identity = self.identity.model_copy(update={"settings": settings})
        self._calibration = self._calibrated(f"{config.name}-{recipe.target.value}", self.identity, note)

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
        return Written(path, features_path, self._quantizer.scan, record)

    def probe(self, folder: Path) -> ProbedModel:
        """Write models into `folder` that show the tensors around the quantized layers."""
        return self._quantizer.probe(self._calibration, self._plan.high_precision, folder)

    def _calibrated(self, name: str, identity: CalibrationIdentity, note: Note) -> Path:
        runs = CalibrationRuns(self._plan.frames, self._recipe)
        what = f"calibrate on {len(self._plan.frames)} frames"
        if self._plan.cache is None:
            note(what)
            folder = self._work / "calibration"
            folder.mkdir()
            self._quantizer.calibrate(runs, folder)
            return folder
        cache = CalibrationCache(self._plan.cache)
        answer = cache.find(name, identity)
        if answer.folder is not None:
            note(f"take the cached calibration: {answer.reason}")
            return answer.folder
        note(f"{what}: {answer.reason}")
        cache.store(name, identity, lambda folder: self._quantizer.calibrate(runs, folder))
        return self._plan.cache / name


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
