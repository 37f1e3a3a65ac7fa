"""`rs4d-export`: from a trained model to a bundle that is proven to give what the model gives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from rs4d_edge.calibration.calibration_set import SAMPLES, open_calibration_set
from rs4d_edge.calibration.frames import load_frames
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError
from rs4d_edge.export.pipeline import GOLDEN_FRAMES, Step, export_bundle, weights_record
from rs4d_edge.export.quantization_options import make_goal, make_sensitivity, make_validation
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.export.result_tables import show_features, show_result
from rs4d_edge.export.target_choice import choose_target
from rs4d_edge.reference.checkpoints import load_metadata
from rs4d_edge.reference.loading import load
from rs4d_edge.reference.shipped import shipped_names, shipped_path

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A shipped model's name (rs4d-info --shipped) or a checkpoint file")],
    target: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(each.value for each in Target)}|jetson-...]",
            help="onnx: ONNX Runtime on any CPU; cpu: OpenVINO on x86 and Arm; rtx: TensorRT-RTX on GPUs; jetson: "
            "TensorRT on a Jetson, or one device, as jetson-orin-nano (rs4d-info --target)",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle")],
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="bf16 needs --target cpu and bf16 instructions, int8-fp16 is for rtx and jetson; int8, fp16 and "
            "int8-fp16 need --calib; default: fp32, for a Jetson fp16"
        ),
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Frames to calibrate int8 or fp16 on: a folder or a COCO file, none of which it is judged by"
        ),
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option("--calib-cache", help="Folder that keeps calibrations for the next export; default: none is kept"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Leave layers out of int8 until mask AP on --val is at most so much lower"),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            help="COCO file on which the reference's AP is recorded for rs4d-verify, and which --max-drop and "
            "--sensitivity measure on; its images beside it or in images/"
        ),
    ] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(help="HTML file for each int8 layer's noise and, with --val, the worst layers' effect on mask AP"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="At most so many frames of --calib")] = SAMPLES,
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option("--image-size", metavar="H W", help="Input in pixels, multiples of 16; default: the model's own"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Frames that are run at once")] = 1,
    compute_capability: Annotated[
        str | None,
        typer.Option("--compute-capability", help="GPUs that --target rtx builds engines for, as in 8.6,8.9"),
    ] = None,
    scan: Annotated[
        ScanForm | None,
        typer.Option(
            metavar="plain|plugin",
            help="For engines: standard operators (default of rtx) or our CUDA plugin (default of jetson)",
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Golden frames: an image, a folder or a COCO file; default: drawn scenes"),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Show every intermediate result beside the reference's")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already at --out")] = False,
) -> None:
    """Export MODEL, compare it with the reference on golden frames, and write the bundle only if they agree.

    On the device, `rs4d-export build BUNDLE` builds the engine of a bundle for jetson or rtx: see its own --help.
    """
    choice = choose_target(target)
    precision = precision or choice.precision
    reference = load(model)
    own_hw = reference.config.encoder.image_size_hw
    size_hw = image_size or choice.image_size_hw(own_hw)
    if image_size is None and size_hw != own_hw:
        console.print(
            f"input {size_hw[0]}x{size_hw[1]} (height x width), as {target} takes it; the model's own is "
            f"{own_hw[0]}x{own_hw[1]}: compare AP on --val, or give --image-size",
            highlight=False,
            soft_wrap=True,
        )
    capabilities = tuple(dict.fromkeys(compute_capability.replace(" ", "").split(","))) if compute_capability else ()
    recipe = make_recipe(
        choice.target,
        precision,
        size_hw,
        batch,
        compute_capabilities=capabilities,
        scan=scan,
    )
    source = shipped_path(model) if model in shipped_names() else Path(model)
    golden = load_frames(frames, GOLDEN_FRAMES) if frames is not None else None
    accuracy_on = make_validation(val)
    plan = None
    if precision.needs_frames or any(option is not None for option in (calib, calib_cache, max_drop, sensitivity)):
        plan = QuantizationPlan(
            open_calibration_set(calib, samples),
            QuantizationSettings.of_checkpoint(load_metadata(source)),
            cache=calib_cache,
            goal=make_goal(max_drop, val),
            sensitivity=make_sensitivity(sensitivity, val),
        )
    steps = StepPrinter()
    result = export_bundle(
        reference,
        recipe,
        out,
        weights=weights_record(reference, source if source.is_file() else None),
        frames=golden,
        plan=plan,
        accuracy_on=accuracy_on,
        overwrite=overwrite,
        progress=steps,
        inspect=show_features if bisect else lambda comparison: None,
    )
    steps.finish()
    show_result(result, choice.target)
    if sensitivity is not None:
        console.print(f"sensitivity: {sensitivity}", markup=False, soft_wrap=True)


def make_recipe(
    target: Target, precision: Precision, image_size_hw: tuple[int, int], batch: int, **engines: Any
) -> Recipe:
    """The recipe, or InputError in words for what does not go together."""
    try:
        return Recipe(target=target, precision=precision, image_size_hw=image_size_hw, batch=batch, **engines)
    except ValidationError as error:
        raise InputError("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from error


class StepPrinter:
    """Prints each step when it begins, with an estimate if it is long, and the time that the one before it took."""

    def __init__(self) -> None:
        self._started: float | None = None

    def __call__(self, step: Step) -> None:
        """A step begins."""
        self.finish()
        self._started = time.perf_counter()
        estimate = f" (about {step.estimate_s:.0f} s)" if step.estimate_s else ""
        console.print(f"{escape(step.name)}{estimate} ...", end=" ")

    def finish(self) -> None:
        """The last step is done."""
        if self._started is not None:
            console.print(f"{time.perf_counter() - self._started:.1f} s")
        self._started = None


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
