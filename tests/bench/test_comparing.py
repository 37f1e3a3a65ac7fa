from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rs4d_edge.bench.comparing import compare, compare_peers, ratio_interval, read_record
from rs4d_edge.errors import InputError
from tests.bench.stand_ins import bundle_of, peer_of, record_of


def findings(before: dict[str, Any], after: dict[str, Any], threshold: float = 0.05) -> dict[str, str]:
    ((pair,), alone) = compare(record_of(before), record_of(after), threshold)
    assert alone == []
    assert pair.slower == ("slower" in {change.finding for change in pair.changes if change.stage == "total"})
    return {f"{change.stage} p{change.rank}": change.finding for change in pair.changes}


def test_the_same_runs_have_not_changed() -> None:
    found = findings(bundle_of(), bundle_of())
    assert set(found) == {"total p50", "total p95", "resize p50", "infer p50", "post p50", "mask p50"}
    assert set(found.values()) == {"no change beyond noise"}


def test_ten_percent_are_found() -> None:
    slower = findings(bundle_of(), bundle_of(scale=1.1, seed=1))
    assert slower["total p50"] == slower["total p95"] == slower["infer p50"] == "slower"
    faster = findings(bundle_of(scale=1.1), bundle_of(seed=1))
    assert faster["total p50"] == "faster"


def test_noise_is_not_a_change() -> None:
    for seed in range(1, 9):
        assert "slower" not in findings(bundle_of(), bundle_of(seed=seed)).values()


def test_a_change_within_the_threshold_is_named_and_no_failure() -> None:
    found = findings(bundle_of(runs=4000), bundle_of(scale=1.03, runs=4000, seed=1))
    assert found["total p50"] == "slower, within the threshold"
    assert (
        findings(bundle_of(runs=4000), bundle_of(scale=1.03, runs=4000, seed=1), threshold=0.01)["total p50"]
        == "slower"
    )


def test_a_disturbance_that_lasts_widens_the_interval() -> None:
    """Of the same values, those in a row tell less than those that are mixed."""
    mixed = np.random.default_rng(0).permutation(np.repeat([20.0, 26.0], [220, 180]))
    in_a_row = np.sort(mixed)
    _, low, high = ratio_interval(np.full(400, 20.0), in_a_row, 50)
    _, mixed_low, mixed_high = ratio_interval(np.full(400, 20.0), mixed, 50)
    assert high - low >= mixed_high - mixed_low
    assert low == 1.0 and high == pytest.approx(1.3)


def test_a_stage_that_takes_no_time_has_no_ratio() -> None:
    assert ratio_interval(np.zeros(20), np.zeros(20), 50) == (1.0, 1.0, 1.0)
    assert ratio_interval(np.zeros(20), np.ones(20), 50)[0] == float("inf")


def test_bundles_are_paired_by_name_and_one_alone_with_one() -> None:
    both = record_of(bundle_of("a"), bundle_of("b"))
    pairs, alone = compare(both, record_of(bundle_of("b"), bundle_of("c")))
    assert [pair.label for pair in pairs] == ["b"] and alone == ["a", "c"]
    pairs, alone = compare(record_of(bundle_of("a")), record_of(bundle_of("b")))
    assert [pair.label for pair in pairs] == ["b"] and alone == []
    with pytest.raises(InputError, match="no bundle in common"):
        compare(both, record_of(bundle_of("c"), bundle_of("d")))


def test_what_was_measured_differently_is_told() -> None:
    before = record_of(bundle_of(), governors=["performance"])
    after = record_of(bundle_of(threads=2), governors=["powersave"])
    ((pair,), _) = compare(before, after)
    assert pair.conditions == ["governors: ['performance'], now ['powersave']", "threads: 1, now 2"]
    assert pair.also["peak memory, MB"] == pytest.approx((3.145728, 3.145728))


def test_peers_tell_of_the_machine_and_not_of_the_bundle() -> None:
    before = record_of(bundle_of(), peers=(peer_of("peer: a"), peer_of("peer: few", runs=3), peer_of("peer: gone")))
    after = record_of(
        bundle_of(seed=1), peers=(peer_of("peer: a", scale=2.0, weights="others"), peer_of("peer: few"), peer_of("new"))
    )
    (pair,) = compare_peers(before, after)
    assert (pair.label, pair.changes[0].finding) == ("peer: a", "slower")
    assert pair.conditions == ["weights: random, now others"]
    ((bundle,), alone) = compare(before, after)
    assert not bundle.slower and alone == []
    assert compare_peers(record_of(bundle_of()), after) == []


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="with masks and the other without"):
        compare(record_of(bundle_of()), record_of(bundle_of(masks_rendered=False)))
    with pytest.raises(InputError, match="19 runs are too few"):
        compare(record_of(bundle_of()), record_of(bundle_of(runs=19)))


def test_records_are_read_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record_of(bundle_of())))
    assert read_record(path)["bundles"][0]["label"] == "bundle"
    alone = {**bundle_of(), "machine": {"processor": "p"}}
    path.write_text(json.dumps(alone))
    assert read_record(path)["bundles"][0]["label"] == "bundle"
    for content in ("{", "[]", "{}", '{"bundles": []}', '{"bundles": [{"label": "a"}], "machine": {}}', "7"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json"):
            read_record(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "absent.json")
