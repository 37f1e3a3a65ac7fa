from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from rs4d_edge.commands.predict import COCO_NAME, find_images, parse_save
from rs4d_edge.commands.predict_terminal import app
from rs4d_edge.errors import InputError
from rs4d_edge.runtimes import table
from tests.stand_ins import Array, KnownRuntime, contract, outputs, small_bundle


class PickyRuntime(KnownRuntime):
    """Known answers, and NaN for a black frame."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        answer = super().run(feeds)
        if not feeds["frame"].any():
            answer["boxes"][:] = np.nan
        return answer


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def open_known(name: str, model_path: Path, *, threads: int | None, precision: str) -> KnownRuntime:
        if name == "tpu":
            raise InputError("there is no runtime 'tpu'")
        return PickyRuntime(contract(), outputs(contract(), [[10, 8, 30, 40], [2, 2, 20, 20]], [0.9, 0.4], [2, 0]))

    monkeypatch.setattr(table, "open_runtime", open_known)
    small_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.png", "b.PNG", "more/a.png", "[odd] name.jpg"):
        write_image(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def write_image(path: Path, value: int = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((64, 96, 3), value, np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
    return path


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_sources_may_be_files_folders_and_globs(photos: Path) -> None:
    names = ["[odd] name.jpg", "a.png", "b.PNG", "more/a.png"]
    assert [path.relative_to(photos).as_posix() for path in find_images([str(photos)])] == names
    assert find_images([str(photos / "*.png")]) == [photos / "a.png"]
    assert find_images([str(photos / "**" / "*.png")]) == [photos / "a.png", photos / "more" / "a.png"]
    assert find_images([str(photos / "[odd] name.jpg")]) == [photos / "[odd] name.jpg"]
    assert find_images([str(photos / "a.png"), str(photos / "a*")]) == [photos / "a.png"]
    assert find_images([str(photos / "notes.txt"), "missing.png"]) == [photos / "notes.txt", Path("missing.png")]
    assert find_images([str(photos / "*.bmp")]) == []


def test_what_to_save() -> None:
    assert parse_save("overlay, coco") == {"overlay", "coco"}
    assert parse_save("coco") == {"coco"}
    for wrong in ("", ",", "overlay,png"):
        with pytest.raises(InputError, match="--save"):
            parse_save(wrong)


def test_each_file_is_counted_timed_and_summed_up(bundle: Path, photos: Path) -> None:
    code, text = run(bundle, photos)
    assert code == 0
    assert text.count("2 objects: 1 bridge, 1 airplane") == 4
    assert "4/4" in text and "infer" in text and "[odd] name.jpg" in text
    assert "8 objects in 4 images" in text
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "photos"]


def test_one_bad_file_is_reported_and_the_rest_goes_on(bundle: Path, photos: Path) -> None:
    (photos / "a.png").write_bytes(b"damaged")
    write_image(photos / "b.PNG", value=0)
    code, text = run(bundle, photos, photos / "missing.png")
    assert code == 1
    assert "a.png is not an image" in text
    assert "NaN" in text
    assert "missing.png cannot be read" in text
    assert "4 objects in 2 images" in text and "3 failed" in text


def test_overlays_and_one_coco_file_are_saved(bundle: Path, photos: Path, tmp_path: Path) -> None:
    code, text = run(bundle, photos, "--out", tmp_path / "out")
    assert code == 0 and "saved overlays and" in text
    names = {"a.overlay.jpg", "a_2.overlay.jpg", "b.overlay.jpg", "[odd] name.overlay.jpg", COCO_NAME}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    overlay = cv2.imread(str(tmp_path / "out" / "a.overlay.jpg"))
    assert overlay is not None and overlay.shape == (64, 96, 3)
    assert np.abs(overlay.astype(int) - 200).max() > 60

    document = json.loads((tmp_path / "out" / COCO_NAME).read_text())
    assert [image["file_name"] for image in document["images"]] == [
        path.as_posix() for path in find_images([str(photos)])
    ]
    assert [each["name"] for each in document["categories"]] == ["airplane", "ship", "bridge"]
    assert len(document["annotations"]) == 8
    assert document["annotations"][0]["bbox"] == [10, 8, 20, 32]


def test_the_coco_file_loads_in_pycocotools(bundle: Path, photos: Path, tmp_path: Path) -> None:
    coco: Any = pytest.importorskip("pycocotools.coco")
    run(bundle, photos, "--out", tmp_path / "out", "--save", "coco")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [COCO_NAME]
    loaded = coco.COCO(str(tmp_path / "out" / COCO_NAME))
    first = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))[0]
    assert loaded.annToMask(first).sum() == first["area"] == 20 * 32
    assert loaded.loadCats([first["category_id"]])[0]["name"] == "bridge"


def test_a_score_above_the_model_s(bundle: Path, photos: Path) -> None:
    assert "4 objects in 4 images" in run(bundle, photos, "--score", "0.5")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "0.01"], "below the model's own"),
        (["--runtime", "tpu"], "no runtime 'tpu'"),
        (["--save", "coco"], "--save needs --out"),
        (["--out", "out", "--save", "png"], "--save 'png' is unknown"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    bundle: Path, photos: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    code, text = run(bundle, photos, *arguments)
    assert code == 2 and message in text
    assert not (photos / "out").exists()


def test_sources_without_images_and_places_without_bundles(bundle: Path, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, text = run(bundle, tmp_path / "empty")
    assert code == 2 and "no images" in text
    code, text = run(tmp_path / "nothing", photos)
    assert code == 2 and "does not exist" in text
    code, text = run(bundle, photos, "--out", photos / "a.png")
    assert code == 2 and "is a file" in text
