"""The scan's body without a loop gives what the step-by-step definition gives, and TensorRT-RTX builds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import ModelProto, TensorProto, helper

from rs4d_edge.errors import ExportError
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_INPUTS, SCAN_OP, inline_scan
from rs4d_edge.export.tensorrt_graph import tensorrt_graph
from rs4d_edge.export.tensorrt_scan import CHUNK, add_plain_scan_function, plain_scan_function
from tests.export.test_scan_function import definition, random_feeds, run_onnxruntime, scan_model

LENGTHS = [
    1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    3 * CHUNK,
    100,
    1600,
]  # of one chunk, two, and up to seven passes over chunks


def loopless_model(shape: tuple[int, int, int, int], reverse: int) -> ModelProto:
    """One scan node with this body."""
    return add_plain_scan_function(scan_model(shape, reverse))


def largest_error(model: ModelProto, shape: tuple[int, int, int, int], reverse: int, largest_decay: float) -> float:
    """Against float64, in parts of the largest output."""
    feeds = random_feeds(shape, largest_decay)
    expected = definition(feeds, reverse)
    return float(np.abs(run_onnxruntime(model, feeds) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("length", LENGTHS)
def test_body_is_the_scan(length: int, reverse: int) -> None:
    shape = (2, length, 5, 3)
    assert largest_error(loopless_model(shape, reverse), shape, reverse, largest_decay=2.0) < 2e-6


@pytest.mark.parametrize("reverse", [0, 1])
def test_body_stays_exact_where_dividing_the_decay_would_overflow(reverse: int) -> None:
    shape = (1, 5 * CHUNK + 3, 4, 2)
    feeds = random_feeds(shape, largest_decay=60.0)
    exponents = feeds["delta"][:, :CHUNK].sum(axis=1)[:, :, None] * feeds["a"]
    assert exponents.min() < -88  # of one chunk: the reciprocal of such a decay is infinite in fp32
    assert largest_error(loopless_model(shape, reverse), shape, reverse, largest_decay=60.0) < 2e-6


def test_states_that_hardly_decay_are_carried_through_all_chunks() -> None:
    # The first token alone feeds the state: everything that comes out later went through the chunks.
    shape = (1, 9 * CHUNK, 3, 2)
    feeds = random_feeds(shape, largest_decay=1e-3)
    feeds["b"][:, 1:] = 0
    feeds["d"][:] = 0
    expected = definition(feeds, 0)
    assert np.abs(expected[:, -CHUNK:]).max() > 0.1
    found = run_onnxruntime(loopless_model(shape, 0), feeds)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_body_has_no_loop_and_takes_the_place_of_another() -> None:
    model = scan_model((1, 40, 4, 2), 1)
    assert [function.name for function in model.functions] == [SCAN_OP]
    add_plain_scan_function(model)
    assert [function.name for function in model.functions] == [SCAN_OP]
    inlined = inline_scan(model)
    onnx.checker.check_model(inlined, full_check=True)
    assert not {node.op_type for node in inlined.graph.node} & {"Loop", "Scan", "If"}


def test_graphs_for_tensorrt_have_it_in_plain_operators_alone() -> None:
    shape = (1, 40, 4, 2)
    plain = tensorrt_graph(scan_model(shape, 1), ScanForm.PLAIN)
    assert {node.domain for node in plain.graph.node} == {""} and not plain.functions
    assert not {node.op_type for node in plain.graph.node} & {"Loop", "Scan", "If"}
    assert largest_error(plain, shape, 1, largest_decay=2.0) < 2e-6


def test_a_model_without_scans_stays_as_it_is() -> None:
    model = scan_model((1, 40, 4, 2), 0)
    del model.graph.node[:]
    before = model.SerializeToString()
    assert add_plain_scan_function(model).SerializeToString() == before


def _two_scans(lengths: tuple[int | str, int | str]) -> ModelProto:
    """A scan and a mixer of these lengths; strings are sizes that are known at run time alone."""
    nodes = [
        helper.make_node(SCAN_OP, ["u", *SCAN_INPUTS[1:]], ["y"], domain=SCAN_DOMAIN),
        helper.make_node(MIXER_OP, ["uz", *MIXER_INPUTS[1:]], ["z"], domain=SCAN_DOMAIN),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, length, 4])
        for name, length in zip(("u", "uz"), lengths, strict=True)
    ]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, []))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ((32, 48), r"the lengths \[32, 48\]"),
        ((32, "tokens"), r"the lengths \[0, 32\] \(0: not known\)"),
        (("t", "t"), r"\[0\]"),
    ],
)
def test_scans_of_several_or_unknown_lengths_are_refused(lengths: tuple[int | str, int | str], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        add_plain_scan_function(_two_scans(lengths))


def test_scans_of_one_length_share_a_body() -> None:
    model = add_plain_scan_function(_two_scans((32, 32)))
    assert [function.SerializeToString() for function in model.functions] == [
        plain_scan_function(32).SerializeToString()
    ]


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from rs4d_edge.export.tensorrt_engines import build_ahead

    path = tmp_path / "scan.onnx"
    onnx.save(tensorrt_graph(scan_model((1, 2 * CHUNK + 1, 8, 4), 1), ScanForm.PLAIN), path)
    record = build_ahead(path, "8.6", tmp_path)
    assert (record.activations_bytes or 0) > 0
