"""The shipped models in every form that a CPU runs: the export passes its gate, and the bundle proves itself.

What is calibrated is so on photographs, and compared on them, as the README exports these models: on drawn scenes they
find little that they are sure of. What the gate is known to refuse is asserted as refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from onnx import ModelProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.calibration_set import open_calibration_set
from rs4d_edge.calibration.frames import load_frames
from rs4d_edge.errors import ParityError
from rs4d_edge.export import pipeline
from rs4d_edge.export.graph import translate
from rs4d_edge.export.pipeline import GOLDEN_FRAMES, export_bundle
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.reference import load
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.shipped import shipped_names
from rs4d_edge.verification import verify
from tests.parity.matrix import precisions_of, recipe_of, skip_unless_possible

pytestmark = pytest.mark.slow

SAMPLES = 100
THREADS = 2
NANO, SMALL, PROMPT = "rs4d-edge-nano-bbox", "rs4d-edge-small-bbox", "rs4d-edge-nano-prompt"
# What the gate says to these, with photographs as golden frames or with drawn scenes. Whoever mends one sees the test
# fail, and takes its line away.
REFUSED = {
    (SMALL, Target.ONNX, Precision.INT8, "scenes"): "departs is encoder",
    (SMALL, Target.CPU, Precision.BF16, "scenes"): "pairs moved",
    (SMALL, Target.CPU, Precision.BF16, "photographs"): "pairs moved",
    (NANO, Target.CPU, Precision.BF16, "photographs"): "pairs moved",
    (PROMPT, Target.CPU, Precision.BF16, "scenes"): "pairs moved",
}


class Shipped(NamedTuple):
    """A shipped model, and its translation where one was made."""

    name: str
    model: RS4D
    translations: dict[int, ModelProto]


@pytest.fixture(scope="module", params=shipped_names())
def shipped(request: pytest.FixtureRequest) -> Shipped:
    return Shipped(request.param, load(request.param), {})


@pytest.fixture(autouse=True)
def _translated_once(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All exports of a model whose masks are made for as many rows share a translation, which takes longest."""

    def shared(model: RS4D, batch: int) -> ModelProto:
        rows = getattr(model.roi_head, "rows", 0)
        if rows not in shipped.translations:
            shipped.translations[rows] = translate(model, batch)
        copied = ModelProto()
        copied.CopyFrom(shipped.translations[rows])
        return copied

    monkeypatch.setattr(pipeline, "translate", shared)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ calibration frames are few")
        yield


def export(
    shipped: Shipped, target: Target, precision: Precision, out: Path, *, calib: Path | None, golden: Path | None
) -> None:
    """Calibrated on images of `calib`, compared on those of `golden` (COCO files); None: not, and on drawn scenes."""
    recipe = recipe_of(target, precision, shipped.model.config.encoder.image_size_hw)
    plan = QuantizationPlan(open_calibration_set(calib, SAMPLES)) if precision.needs_frames else None
    frames = load_frames(golden, GOLDEN_FRAMES) if golden is not None else None
    export_bundle(shipped.model, recipe, out, frames=frames, plan=plan, threads=THREADS)


FORMS = [
    pytest.param(target, precision, id=f"{target.value}-{precision.value}")
    for target in Target
    if not target.for_engines
    for precision in precisions_of(target)
]


@pytest.mark.parametrize(("target", "precision"), FORMS)
def test_every_form_passes_its_gate_and_proves_itself(
    shipped: Shipped, target: Target, precision: Precision, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    skip_unless_possible(target, precision)
    if (shipped.name, target, precision, "photographs" if precision.needs_frames else "scenes") in REFUSED:
        pytest.skip("the gate is known to refuse it: see the test below")
    photographs = None
    if precision.needs_frames:
        photographs = request.getfixturevalue("data_dir") / "nwpu_vhr10" / "train.json"
    export(shipped, target, precision, tmp_path / "bundle", calib=photographs, golden=photographs)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (manifest.target, manifest.precision) == (target.value, precision.value)
    assert manifest.parity.frames == GOLDEN_FRAMES and manifest.parity.detections.matched > 0
    result = verify(tmp_path / "bundle", threads=THREADS)
    assert result.passed, result.checks


@pytest.mark.parametrize(
    ("target", "precision", "golden"),
    [
        pytest.param(*form, id=f"{form[0].value}-{form[1].value}-{form[2]}")
        for form in dict.fromkeys(each[1:] for each in REFUSED)
    ],
)
def test_what_the_gate_is_known_to_refuse_is_refused(
    shipped: Shipped, target: Target, precision: Precision, golden: str, tmp_path: Path, data_dir: Path
) -> None:
    words = REFUSED.get((shipped.name, target, precision, golden))
    if words is None:
        pytest.skip(f"no refusal is known of {shipped.name}")
    skip_unless_possible(target, precision)
    photographs = data_dir / "nwpu_vhr10" / "train.json"
    with pytest.raises(ParityError, match=words):
        export(
            shipped,
            target,
            precision,
            tmp_path / "bundle",
            calib=photographs,
            golden=photographs if golden == "photographs" else None,
        )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("scan", [ScanForm.PLAIN, ScanForm.PLUGIN], ids=lambda scan: scan.value)
@pytest.mark.parametrize("precision", precisions_of(Target.RTX), ids=lambda precision: precision.value)
def test_engines_are_built_of_every_form(
    shipped: Shipped, precision: Precision, scan: ScanForm, tmp_path: Path, data_dir: Path
) -> None:
    if shipped.name == SMALL:
        pytest.skip("the nanos have the same parts, in both heads")
    skip_unless_possible(Target.RTX, precision)
    size_hw = shipped.model.config.encoder.image_size_hw
    recipe = Recipe(
        target=Target.RTX, precision=precision, image_size_hw=size_hw, compute_capabilities=("8.6",), scan=scan
    )
    photographs = data_dir / "nwpu_vhr10" / "train.json"
    plan = QuantizationPlan(open_calibration_set(photographs, SAMPLES)) if precision.needs_frames else None
    frames = load_frames(photographs, GOLDEN_FRAMES)
    result = export_bundle(shipped.model, recipe, tmp_path / "bundle", frames=frames, plan=plan, threads=THREADS)
    assert [(engine.compute_capability, bool(engine.plugins)) for engine in result.engines] == [
        ("8.6", scan is ScanForm.PLUGIN)
    ]
