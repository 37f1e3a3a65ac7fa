"""Every form of the scan and of the mixer's core, in every runtime and precision, against the definition in float64.

Hypothesis draws shapes and kinds of data, the same on each run; `scan_cases` says which.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rs4d_edge.export.mixer_function import MIXER_OP
from rs4d_edge.export.recipes import Precision
from rs4d_edge.export.scan_function import SCAN_OP
from rs4d_edge.export.tolerances import TOLERANCES
from tests.runtimes.scan_cases import (
    ANY_SHAPE,
    LONG,
    SHAPES,
    SMALL_SCALES,
    Case,
    all_cases,
    exact_outputs,
    make_inputs,
    ordinary_cases,
    slow_cases,
)
from tests.runtimes.scan_forms import Form, onnxruntime_form, openvino_form, torch_form
from tests.runtimes.wrong_scans import RIGHT, WRONG

OPS = (SCAN_OP, MIXER_OP)
BF16_EPS, FP16_EPS = torch.finfo(torch.bfloat16).eps, torch.finfo(torch.float16).eps

# Among hundreds of random cases each, the scan's largest error was 5e-7 in every fp32 form, that of the mixer's core,
# which multiplies three numbers that are sums of their own, 1.1e-6. In the plain bodies the core's sigmoid and softplus
# are the engine's, exact absolutely, not relatively: ONNX Runtime's sigmoid to 1e-7, OpenVINO's softplus to 2e-6, below
# which it gives nothing at all. For a step size of 1e-3 that is much: 1.3e-5 of the output, and more for large tokens.
NATIVE = {SCAN_OP: 1e-6, MIXER_OP: 2e-6}
FORMS = {
    "torch-native": torch_form(torch.float32, NATIVE, native=True),
    "torch-plain": torch_form(torch.float32, NATIVE, native=False),
    "torch-native-bf16": torch_form(torch.bfloat16, dict.fromkeys(OPS, BF16_EPS), native=True),
    "torch-plain-bf16": torch_form(torch.bfloat16, dict.fromkeys(OPS, BF16_EPS), native=False),
    "torch-native-fp16": torch_form(torch.float16, dict.fromkeys(OPS, FP16_EPS), native=True),
    "torch-plain-fp16": torch_form(torch.float16, dict.fromkeys(OPS, FP16_EPS), native=False),
    "onnxruntime-native": onnxruntime_form(NATIVE, native=True),
    "onnxruntime-plain": onnxruntime_form({SCAN_OP: 1e-6, MIXER_OP: 5e-6}, native=False),
    "openvino-c++": openvino_form(NATIVE, "c++"),
    "openvino-python": openvino_form(NATIVE, "python"),
    "openvino-plain": openvino_form({SCAN_OP: 1e-6, MIXER_OP: 5e-5}, "plain"),
    # Tokens and outputs rounded to bf16 by the products around the operation: 1.1e-2 at most, the rest in float64. In
    # the plain body any value may be rounded, so that its limit is the one of an export's gate.
    "openvino-c++-bf16": openvino_form(dict.fromkeys(OPS, 2e-2), "c++", "bf16"),
    "openvino-python-bf16": openvino_form(dict.fromkeys(OPS, 2e-2), "python", "bf16"),
    "openvino-plain-bf16": openvino_form(dict.fromkeys(OPS, TOLERANCES[Precision.BF16].tensor), "plain", "bf16"),
}
FP32_FORMS = [name for name, form in FORMS.items() if form.single]
DENORMAL_FLOOR = 1e-36  # the kernels count denormals as zero
# Against the sum of the magnitudes of what is added up, so that no token hides behind a larger one: 3e-6 in all forms.
TERMS_LIMIT = 1e-5
# All outputs of so few tokens may have lost most of what was added up to them, and so may the core's b and c.
FEW_TOKENS, FEW_TOKENS_FACTOR = 8, 4

PROFILE = settings(
    derandomize=True,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def assert_exact(op: str, form: Form, case: Case, limit: float) -> None:
    """Finite, and within `limit` of the largest magnitude; of a scan in fp32, every number for itself too."""
    few = case.shape.length <= FEW_TOKENS
    limit *= FEW_TOKENS_FACTOR if few and op == MIXER_OP else 1
    inputs = [torch.from_numpy(array).to(form.dtype).float() for array in make_inputs(op, case)]
    outputs = form.compute(op, [x.numpy() for x in inputs])
    for output, (wanted, terms) in zip(outputs, exact_outputs(op, [x.double() for x in inputs]), strict=True):
        y = torch.from_numpy(output)
        assert y.shape == wanted.shape
        assert wanted.isfinite().all()
        assert y.isfinite().all(), "not finite"
        error = (y - wanted).abs()
        largest = (terms if few else wanted).abs().max()
        message = f"largest error {float(error.max()):.2e}, largest magnitude {float(largest):.2e}"
        assert error.max() <= limit * largest + DENORMAL_FLOOR, message
        if form.single and op == SCAN_OP:
            assert (error <= max(TERMS_LIMIT, limit) * terms + DENORMAL_FLOOR).all(), f"a smaller number; {message}"


def hold(op: str, form: Form, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """The property for drawn shapes and data."""
    shapes = ANY_SHAPE if form.any_shape else st.sampled_from(SHAPES)
    largest = (1e10,) if op == SCAN_OP else (30.0,) if form.exact_tails else ()
    cases = all_cases(shapes, [*SMALL_SCALES, *largest]) if form.single else ordinary_cases(shapes)

    @settings(PROFILE, max_examples=30, phases=phases)
    @given(cases)
    def check(case: Case) -> None:
        assert_exact(op, form, case, form.limits[op])

    check()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_agrees_with_float64(name: str, op: str) -> None:
    hold(op, FORMS[name])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", FP32_FORMS)
def test_states_that_hardly_decay_do_not_drift(name: str, op: str) -> None:
    """A factor near one is rounded by up to 2^-25, in the same direction each time where the steps are equal."""
    form = FORMS[name]

    @settings(PROFILE, max_examples=3)
    @given(slow_cases())
    def check(case: Case) -> None:
        assert_exact(op, form, case, max(form.limits[op], LONG.length * 2**-25))

    check()


@pytest.mark.parametrize("op", RIGHT)
def test_a_right_form_passes(op: str) -> None:
    hold(op, RIGHT[op]._replace(limits=NATIVE))


@pytest.mark.parametrize(("op", "mistake"), WRONG)
def test_a_wrong_form_is_caught(op: str, mistake: str) -> None:
    """None of them by its shape: each gives as many numbers as it should."""
    with pytest.raises(AssertionError, match=r"largest error|not finite"):
        hold(op, WRONG[op, mistake]._replace(limits=NATIVE), phases=(Phase.generate,))


def test_the_usual_shortcut_looks_right_on_easy_data() -> None:
    easy = Case(SHAPES[2], seed=0, decay=(0.1, 1.0))
    assert_exact(SCAN_OP, WRONG[SCAN_OP, "divides by the decay"], easy, 1e-5)
