from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rs4d_edge.bundle import open_bundle, sha256_of, write_bundle
from rs4d_edge.errors import BundleError, InputError
from rs4d_edge.manifest import MANIFEST_NAME
from tests.stand_ins import golden_frame, small_bundle, square_detections

FILES = ("golden/frame_0.json", "golden/frame_0.png", "model.bin", "model.onnx")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    small_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_was_written_is_found(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert tuple(file.path for file in opened.manifest.files) == FILES
    assert opened.model_path == bundle / "model.onnx"
    assert opened.unlisted == ()
    ((frame, detections),) = opened.golden()
    np.testing.assert_array_equal(frame, golden_frame())
    np.testing.assert_array_equal(detections.boxes_xyxy, square_detections().boxes_xyxy)
    np.testing.assert_array_equal(detections.masks(), square_detections().masks())


def test_it_may_be_named_by_a_string_and_moved(bundle: Path) -> None:
    moved = bundle.with_name("elsewhere")
    bundle.rename(moved)
    assert open_bundle(str(moved)).manifest.name == "small"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_with_both_sizes(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} is cut short: {len(content) - 1} bytes.*{len(content)}"):
        open_bundle(bundle)
    (bundle / name).write_bytes(content + b"\0")
    with pytest.raises(BundleError, match=f"{name} is longer"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.37, 0.99])
def test_a_flipped_bit_is_found_and_named_with_both_hashes(bundle: Path, name: str, place: float) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    before = sha256_of(path)
    content[int(place * len(content))] ^= 1 << int(place * 7)
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} was changed: its SHA-256 is {sha256_of(path)}.* {before}"):
        open_bundle(bundle)


def test_any_flipped_bit_of_the_manifest_is_found(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        if content[place : place + 1].isspace():
            continue  # layout between the entries means nothing
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            open_bundle(bundle)


def test_places_that_hold_no_bundle_say_so(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is a file"):
        open_bundle(bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path) -> None:
    outside = bundle.with_name("outside.onnx")
    shutil.move(bundle / "model.onnx", outside)
    (bundle / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(bundle)


def test_the_bundle_itself_may_be_reached_by_a_link(bundle: Path) -> None:
    link = bundle.with_name("current")
    link.symlink_to(bundle, target_is_directory=True)
    assert open_bundle(link).manifest.name == "small"


def test_unlisted_files_are_named_and_ignored(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"x")
    (bundle / "golden" / "notes.txt").write_text("mine")
    assert open_bundle(bundle).unlisted == (".DS_Store", "golden/notes.txt")


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_bundle(tmp_path / "bundle") as draft:
        (draft.path / "model.onnx").write_bytes(b"x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_unsealed_draft_does_not_become_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not sealed"), write_bundle(tmp_path / "bundle") as draft:
        (draft.path / "model.onnx").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_at_the_place_before_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "bundle"
    with pytest.raises(BundleError), write_bundle(out) as draft:
        assert not out.exists()
        assert draft.path.parent == out.parent  # so that the final rename stays on one file system
    small_bundle(out)
    assert os.stat(out).st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_existing_bundle_is_replaced_only_when_asked(bundle: Path) -> None:
    with pytest.raises(InputError, match="already holds a bundle"):
        small_bundle(bundle, name="second")
    assert open_bundle(bundle).manifest.name == "small"
    (bundle / "leftover.txt").write_text("old")
    small_bundle(bundle, name="second", overwrite=True)
    assert open_bundle(bundle).manifest.name == "second"
    assert open_bundle(bundle).unlisted == ()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_failed_replacement_keeps_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse_partial(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_partial)
    with pytest.raises(OSError, match="disk is gone"):
        small_bundle(bundle, name="second", overwrite=True)
    monkeypatch.undo()
    assert open_bundle(bundle).manifest.name == "small"
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_other_people_s_folders_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    with pytest.raises(InputError, match="not a bundle"):
        small_bundle(tmp_path / "photos", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        small_bundle(tmp_path / "photos" / "cat.png", overwrite=True)
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"meow"


def test_an_empty_folder_is_a_good_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    small_bundle(tmp_path / "out")
    assert open_bundle(tmp_path / "out").manifest.name == "small"
