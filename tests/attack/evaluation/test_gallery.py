"""Attacked images in a result and on the page."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attack import read_result, write_report
from stylize.console import InputError

Maker = Callable[..., Path]


def pixels(encoded: str) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture, float)


@pytest.fixture
def result(make_shard_folder: Maker, make_result: Maker) -> Path:
    return make_result(make_shard_folder(test=30), "normal")


@pytest.mark.usefixtures("undrawn")
def test_three_attacked_images_are_kept_and_shown(result: Path, tmp_path: Path) -> None:
    document: dict[str, Any] = read_result(result).document
    assert len(document["gallery"]) == 3
    for picture in document["gallery"]:
        original, attacked = pixels(picture["original"]), pixels(picture["attacked"])
        assert original.shape == (16, 16, 3)
        moved = attacked - original
        assert 0 < np.abs(moved).max() <= 8 + 1e-9
        change = np.clip(127.5 + 20 * moved, 0, 255)
        assert np.abs(pixels(picture["change"]) - change).max() <= 20.5  # two pictures were rounded to 8 bits
        assert picture["class"] in document["model"]["card"]["class_names"]
    page = write_report([result], tmp_path / "report").read_text(encoding="utf-8")
    assert page.count('alt="attacked"') == 3
    fooled = sum(picture["predicted"] != picture["class"] for picture in document["gallery"])
    assert page.count("taken for") == fooled


@pytest.mark.usefixtures("undrawn")
def test_a_gallery_cannot_leave_its_attributes(result: Path, tmp_path: Path) -> None:
    document = json.loads(result.read_text())
    for picture in document["gallery"]:
        picture |= dict.fromkeys(("original", "predicted", "class", "attack"), '"><script>alert(1)</script>')
    result.write_text(json.dumps(document))
    assert "<script" not in write_report([result], tmp_path / "report").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["original", "epsilon", "predicted"])
def test_a_damaged_gallery_is_a_damaged_result(result: Path, name: str) -> None:
    document = json.loads(result.read_text())
    del document["gallery"][1][name]
    result.write_text(json.dumps(document))
    with pytest.raises(InputError, match=result.name):
        read_result(result)


def test_the_papers_suite_and_earlier_results_have_none(make_shard_folder: Maker, make_result: Maker) -> None:
    path = make_result(make_shard_folder(test=30), "pairing", suite="paper", images=4, steps=2)
    document = json.loads(path.read_text())
    assert document.pop("gallery") == []
    path.write_text(json.dumps(document))
    assert read_result(path).method == "pairing"
