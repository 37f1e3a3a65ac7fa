"""The one call that a device needs: a frame in, detections out."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.contract import OUTPUT_NAMES, MaskKind, ModelContract
from rs4d_edge.detections import Detections
from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.frames import ColorOrder, Frame, check_color, check_frame
from rs4d_edge.manifest import Manifest
from rs4d_edge.masks import InstanceMask, frame_masks, roi_masks
from rs4d_edge.resize import FrameResizer, Geometry
from rs4d_edge.timing import StageTimings, Stopwatch

if TYPE_CHECKING:
    from rs4d_edge.runtimes.contract import Runtime

Array = npt.NDArray[Any]
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


class ReferenceModel(Protocol):
    """What the Predictor needs of a reference model (`rs4d_edge.reference.detector.RS4D`)."""

    @property
    def contract(self) -> ModelContract:
        """Its inputs, outputs and post-processing."""


class Predictor:
    """Finds objects in frames with a bundle, or with a reference model on a workstation.

        with Predictor("bundle") as predictor:
            detections = predictor.run(frame)

    One Predictor serves one thread: its buffers and its engine's are used again by each call. A call that comes while
    another runs raises `InputError`; open one Predictor for each thread.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ReferenceModel,
        *,
        runtime: str | None = None,
        threads: int | None = None,
        score_threshold: float | None = None,
        self_test: bool = False,
        build: Literal["never", "if-needed"] = "never",
    ) -> None:
        """Open `source`: the path of a bundle's folder, or a reference model.

        `runtime` replaces the bundle's own (`onnxruntime`, `openvino`, ...), if that one can read its model; `threads`
        None leaves the number to the engine; `score_threshold` raises the model's own, which is already applied inside
        its graph. With `self_test` a bundle's golden frames are run first, and `ParityError` is raised unless they
        give what the reference gave, by the limits of the export. With `build="if-needed"` a bundle for TensorRT that
        holds no engine for this machine gets one first, which takes minutes on a small device and is told to the log
        `rs4d_edge.build`; else that is an error, which says how to build it. Raises `BundleError`, `RuntimeUnavailable`
        or `InputError`.
        """
        self.manifest: Manifest | None = None
        bundle: Bundle | None
        if isinstance(source, str | os.PathLike):
            _refuse_checkpoint(Path(source))
            bundle = open_bundle(source)
            self.manifest = bundle.manifest
            contract = bundle.manifest.contract
            threshold = _threshold(score_threshold, contract)
            from rs4d_edge.runtimes.table import build_if_needed, open_runtime

            name = runtime if runtime is not None else bundle.manifest.runtime
            if _builds(build):
                build_if_needed(name, bundle)
            opened = open_runtime(name, bundle.model_path, threads=threads, precision=bundle.manifest.precision)
        else:
            bundle = None
            if _builds(build):
                raise InputError("build='if-needed' is for bundles; a reference model has no engine")
            contract = _contract_of(source)
            threshold = _threshold(score_threshold, contract)
            opened = _reference_runtime(source, runtime, threads)
        self._start(opened, contract, contract.score_threshold if self_test else threshold)
        if self_test:
            self._test_itself(bundle)
            self.score_threshold = threshold

    def _test_itself(self, bundle: Bundle | None) -> None:
        from rs4d_edge.verification import require_golden  # which needs this module

        try:
            if bundle is None:
                raise InputError("self_test is for bundles, which carry golden frames; a reference model has none")
            require_golden(self, bundle)
        except BaseException:
            self.close()
            raise

    @classmethod
    def over(cls, runtime: Runtime, contract: ModelContract, *, score_threshold: float | None = None) -> Predictor:
        """A Predictor over an open runtime, which it then owns and closes: for exports that are not yet a bundle."""
        predictor = cls.__new__(cls)
        predictor.manifest = None
        predictor._start(runtime, contract, _threshold(score_threshold, contract))
        return predictor

    def _start(self, runtime: Runtime, contract: ModelContract, score_threshold: float) -> None:
        self.contract = contract
        self.score_threshold = score_threshold
        self._runtime: Runtime | None = runtime
        self._resizer = FrameResizer(contract.image_size_hw, contract.batch)
        self._valid_hw = np.ones((contract.batch, 2), dtype=np.int64)
        self._busy = threading.Lock()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the runtime and free its memory; closing again does nothing."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()

    def run(self, frame: Frame, *, color: ColorOrder = "RGB") -> Detections:
        """Find the objects in one frame: uint8 (height, width, 3) of any size, channels in `color` order.

        The frame is only read. Raises `FrameError` for a frame that cannot be used, `RuntimeFailure` if the runtime
        fails or answers with NaN, `ClosedError` after `close`.
        """
        return self.run_batch([frame], color=color)[0]

    def run_batch(self, frames: Sequence[Frame], *, color: ColorOrder = "RGB") -> list[Detections]:
        """Find the objects in several frames, `contract.batch` at a time; the sizes may differ.

        The timings of each result are those of the whole call that its frame was part of.
        """
        order = check_color(color)
        checked = [check_frame(frame) for frame in frames]
        if not self._busy.acquire(blocking=False):
            raise InputError("this Predictor is already running in another thread: open one Predictor for each thread")
        try:
            size = self.contract.batch
            results: list[Detections] = []
            for start in range(0, len(checked), size):
                results += self._run_once(checked[start : start + size], order)
            return results
        finally:
            self._busy.release()

    def _run_once(self, frames: Sequence[Frame], color: ColorOrder) -> list[Detections]:
        if self._runtime is None:
            raise ClosedError("this Predictor is closed: open a new one")
        watch = Stopwatch()
        geometries = [self._resizer(frame, color, slot) for slot, frame in enumerate(frames)]
        for slot, geometry in enumerate(geometries):
            self._valid_hw[slot] = geometry.valid_hw
        resize_ms = watch.lap_ms()
        outputs = self._runtime.run({"frame": self._resizer.batch, "valid_hw": self._valid_hw})
        infer_ms = watch.lap_ms()
        results = to_detections(outputs, geometries, self.contract, self.score_threshold)
        post_ms = watch.lap_ms()
        for result in results:
            result.timings = StageTimings(resize_ms=resize_ms, infer_ms=infer_ms, post_ms=post_ms)
        return results


def to_detections(
    outputs: Mapping[str, Array], geometries: Sequence[Geometry], contract: ModelContract, score_threshold: float
) -> list[Detections]:
    """The graph's outputs (see `rs4d_edge.contract`) as detections in the first `len(geometries)` frames of the batch.

    Nothing of `outputs` is referred to afterwards. Kept is what scores above the threshold and reaches into the frame.
    Raises `RuntimeFailure` for names, shapes or values that no working model gives.
    """
    check_outputs(outputs, contract)
    return [
        _frame_detections({name: outputs[name][slot] for name in OUTPUT_NAMES}, geometry, contract, score_threshold)
        for slot, geometry in enumerate(geometries)
    ]


def check_outputs(outputs: Mapping[str, Array], contract: ModelContract) -> None:
    """Raise `RuntimeFailure` unless names and shapes are the contract's and boxes and scores are finite numbers."""
    for name, shape in contract.output_shapes.items():
        if name not in outputs:
            raise RuntimeFailure(f"the runtime gave no output {name!r}, only {sorted(outputs)}: export the model again")
        if outputs[name].shape != shape:
            raise RuntimeFailure(
                f"the runtime's output {name!r} has shape {outputs[name].shape}, the contract says {shape}: "
                "model and manifest do not belong together; export the model again"
            )
    for name in ("boxes", "scores"):
        if not np.isfinite(outputs[name]).all():
            raise RuntimeFailure(
                f"the runtime's {name} hold NaN or infinite values: the model or its precision does not work on this "
                "runtime; try another precision or runtime, and compare with rs4d-export --bisect"
            )


def _frame_detections(
    outputs: Mapping[str, Array], geometry: Geometry, contract: ModelContract, score_threshold: float
) -> Detections:
    height, width = geometry.frame_hw
    boxes = geometry.to_frame(outputs["boxes"])
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    reaches_in = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    kept = np.flatnonzero((outputs["scores"] > score_threshold) & reaches_in)
    labels = outputs["labels"][kept]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(contract.classes):
        raise RuntimeFailure(
            f"the runtime's labels {sorted(set(labels.tolist()))} do not fit the {len(contract.classes)} classes: "
            "model and manifest do not belong together; export the model again"
        )
    if contract.mask_kind is MaskKind.ROI:
        masks = roi_masks(outputs["masks"][kept], boxes[kept], geometry.frame_hw)
    else:
        masks = frame_masks(outputs["masks"], kept, geometry)
    return Detections(
        boxes_xyxy=clipped[kept],
        scores=outputs["scores"][kept],
        labels=labels,
        masks=[InstanceMask(mask) for mask in masks],
        classes=contract.classes,
        size_hw=geometry.frame_hw,
    )


def _builds(build: str) -> bool:
    if build not in ("never", "if-needed"):
        raise InputError(f"build {build!r} must be 'never' or 'if-needed'")
    return build == "if-needed"


def _threshold(asked: float | None, contract: ModelContract) -> float:
    if asked is None:
        return contract.score_threshold
    if not math.isfinite(asked) or asked >= 1:
        raise InputError(f"score_threshold {asked} must be a number below 1")
    if asked < contract.score_threshold:
        raise InputError(
            f"score_threshold {asked} is below the model's own {contract.score_threshold}, under which its graph "
            "already drops detections: ask for at least that, or export the model with a lower one"
        )
    return asked


def _refuse_checkpoint(path: Path) -> None:
    if path.suffix in CHECKPOINT_SUFFIXES and path.is_file():
        raise InputError(
            f"{path} is a checkpoint, not a bundle: export it with rs4d-export, or on a workstation pass the model, "
            "Predictor(rs4d_edge.reference.load(path))"
        )


def _contract_of(source: Any) -> ModelContract:
    contract = getattr(source, "contract", None)
    if not isinstance(contract, ModelContract):
        raise InputError(
            f"a Predictor opens the path of a bundle or a reference model, not a {type(source).__name__}; "
            "rs4d_edge.reference.load makes a model of a checkpoint or a preset's name"
        )
    return contract


def _reference_runtime(model: Any, runtime: str | None, threads: int | None) -> Runtime:
    if runtime not in (None, "torch"):
        raise InputError(f"a reference model runs in torch, not in {runtime!r}: export it, and open the bundle")
    from rs4d_edge.runtimes.torch_runtime import TorchRuntime

    return TorchRuntime(model, threads=threads)
