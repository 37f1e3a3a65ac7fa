from __future__ import annotations

import json
from typing import Any

import pytest

from rs4d_edge.errors import BundleError
from rs4d_edge.manifest import SCHEMA_VERSION, Manifest, manifest_text, parse_manifest
from tests.stand_ins import small_bundle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return small_bundle(tmp_path_factory.mktemp("bundles") / "small")


def resealed(content: dict[str, Any]) -> str:
    """The text of a manifest that was written with these entries, rather than edited afterwards."""
    from rs4d_edge.manifest import _seal

    return json.dumps({**content, "seal": _seal(content)})


def test_reading_gives_what_was_written(manifest: Manifest) -> None:
    assert parse_manifest(manifest_text(manifest), "here") == manifest


def set_in(content: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        content = content[group]
    content[last] = value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contract.score_threshold", 0.3),
        ("contract.classes", ["ship", "airplane", "bridge"]),
        ("contract.image_size_hw", [96, 64]),
        ("precision", "bf16"),
        ("runtime", "openvino"),
        ("target", "cpu"),
        ("model", "model.bin"),
        ("created", "2020-01-01T00:00:00Z"),
        ("tools", {}),
    ],
)
def test_an_edit_is_found_and_named(manifest: Manifest, name: str, value: Any) -> None:
    content = json.loads(manifest_text(manifest))
    set_in(content, name, value)
    with pytest.raises(BundleError, match=f"here was edited after the export: {name} no longer"):
        parse_manifest(json.dumps(content), "here")


def test_entries_that_were_added_or_removed_are_named(manifest: Manifest) -> None:
    content = json.loads(manifest_text(manifest))
    del content["parity"]
    content["note"] = "mine"
    with pytest.raises(BundleError, match="note, parity"):
        parse_manifest(json.dumps(content), "here")


def test_formatting_alone_is_no_edit(manifest: Manifest) -> None:
    compact = json.dumps(json.loads(manifest_text(manifest)), separators=(",", ":"), sort_keys=True)
    assert parse_manifest(compact, "here") == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "schema_version None"),
        ('{"schema_version": "1"}', "schema_version '1'"),
        ('{"schema_version": true}', "schema_version True"),
        (f'{{"schema_version": {SCHEMA_VERSION + 1}}}', "update rs4d-edge"),
        ('{"schema_version": 0}', "export the bundle again"),
        ('{"schema_version": 1}', "no seal"),
    ],
)
def test_texts_that_are_not_manifests_say_what_to_do(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_manifest(text, "here")


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "a/../../b", "C:/model", "a\\b", "", ".", "a//b", "./a", "a/", "a\0"]
)
def test_no_path_leads_out_of_the_bundle(manifest: Manifest, path: str) -> None:
    content = json.loads(manifest_text(manifest))
    del content["seal"]
    content["files"][0]["path"] = path
    with pytest.raises(BundleError, match=r"files\.0\.path"):
        parse_manifest(resealed(content), "here")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", "other.onnx", "files does not list them"),
        ("golden", [], "golden"),
        ("files", [], "files"),
        ("surprise", 1, "surprise"),
        ("weights.sha256", "abc", r"weights\.sha256"),
        ("contract.score_threshold", 2, r"contract\.score_threshold"),
        ("parity.frames", 0, r"parity\.frames"),
        ("created", "yesterday", "created"),
    ],
)
def test_entries_that_cannot_be_are_named(manifest: Manifest, name: str, value: Any, message: str) -> None:
    content = json.loads(manifest_text(manifest))
    del content["seal"]
    set_in(content, name, value)
    with pytest.raises(BundleError, match=message):
        parse_manifest(resealed(content), "here")


def test_files_are_listed_once_and_the_manifest_is_not_among_them(manifest: Manifest) -> None:
    for change, message in (("same", "more than once"), ("manifest.json", "must not list manifest.json")):
        content = json.loads(manifest_text(manifest))
        del content["seal"]
        extra = dict(content["files"][0])
        if change != "same":
            extra["path"] = change
        content["files"].append(extra)
        with pytest.raises(BundleError, match=message):
            parse_manifest(resealed(content), "here")
