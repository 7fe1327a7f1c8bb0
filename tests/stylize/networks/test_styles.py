import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2_contingency, chisquare, kruskal, kstest

from stylize.console import InputError
from stylize.jobs.spec import Draw, Spec, draw_copies
from stylize.networks.styles import STYLE_SIDE, load_styles
from stylize.networks.stylizer import Pixels
from stylize.sources.folder import PictureFile
from stylize.sources.patterns import PATTERN_NAMES, draw_pattern

Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]


def draws(seed: int, key: str, copies: int, styles: int, alpha: float | str = 1.0) -> list[Draw]:
    spec = SimpleNamespace(seed=seed, styles_per_image=copies, styles=range(styles), alpha=alpha)
    return draw_copies(cast(Spec, spec), key)


def style_choice(seed: int, key: str, copies: int, styles: int) -> list[int]:
    return [draw.style for draw in draws(seed, key, copies, styles)]


def choices(seed: int, copies: int, styles: int, count: int = 3000) -> list[list[int]]:
    return [style_choice(seed, f"{index:08d}", copies, styles) for index in range(count)]


def test_strengths_of_a_range_are_uniform_and_independent_of_styles_and_seeds() -> None:
    drawn = [draw for index in range(2000) for draw in draws(0, f"{index:08d}", 2, 4, "0.4:0.7")]
    styles, alphas, seeds = (np.array(each) for each in zip(*drawn, strict=True))
    assert (alphas.min() >= 0.4, alphas.max() <= 0.7) == (True, True)
    assert kstest(alphas, "uniform", (0.4, 0.3)).pvalue > 1e-4
    assert kruskal(*(alphas[styles == style] for style in range(4))).pvalue > 1e-4
    assert abs(np.corrcoef(alphas, seeds)[0, 1]) < 0.06
    assert len(set(seeds)) == len(seeds)
    assert [draw.style for draw in drawn[:2]] == style_choice(0, "00000000", 2, 4)


@pytest.mark.parametrize("styles", [2, 7, 19])
def test_choice_is_uniform_and_the_copies_independent(styles: int) -> None:
    first, second = np.array(choices(0, 2, styles)).T
    table = np.zeros((styles, styles))
    np.add.at(table, (first, second), 1)
    assert chisquare(np.bincount(first, minlength=styles)).pvalue > 1e-4
    assert chisquare(np.bincount(second, minlength=styles)).pvalue > 1e-4
    assert chi2_contingency(table).pvalue > 1e-4


def test_seeds_choose_independently() -> None:
    table = np.zeros((5, 5))
    np.add.at(table, (np.array(choices(0, 1, 5)).ravel(), np.array(choices(1, 1, 5)).ravel()), 1)
    assert chi2_contingency(table).pvalue > 1e-4


def test_a_choice_depends_on_nothing_but_its_arguments() -> None:
    keys = [f"{index:08d}" for index in range(50)]
    forward = {key: style_choice(3, key, 4, 6) for key in keys}
    assert forward == {key: style_choice(3, key, 4, 6) for key in reversed(keys)}
    assert all(style_choice(3, key, 2, 6) == forward[key][:2] for key in keys)
    digest = hashlib.sha256(b"3:00000007:1").digest()
    assert forward["00000007"][1] == int.from_bytes(digest[:8], "big") % 6


def test_built_in_names() -> None:
    assert [style.name for style in load_styles(["patterns"])] == list(PATTERN_NAMES)
    (style,) = load_styles(["dots"])
    assert style.picture.tobytes() == draw_pattern("dots", STYLE_SIDE).tobytes()


def test_pictures_are_scaled_to_the_side_that_is_asked_for(tmp_path: Path, noise: Noise, encode: Encode) -> None:
    (tmp_path / "tall.png").write_bytes(encode(noise(0, 90, 30)))
    (tall,), (dots,) = load_styles([str(tmp_path / "tall.png")], side=64), load_styles(["dots"], side=64)
    assert tall.picture.size == (64, 192)
    assert dots.picture.tobytes() == draw_pattern("dots", 64).tobytes()


def test_files_folders_and_names_in_the_given_order(tmp_path: Path, noise: Noise, encode: Encode) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for seed, path in enumerate((tmp_path / "single.png", folder / "b.png", folder / "a.jpg")):
        path.write_bytes(encode(noise(seed, 40, 100)))
    (folder / "notes.txt").write_text("no picture")
    styles = load_styles([str(tmp_path / "single.png"), "dots", str(folder)])
    assert [style.name for style in styles] == ["single.png", "dots", "a.jpg", "b.png"]
    assert styles[0].sha256 == hashlib.sha256((tmp_path / "single.png").read_bytes()).hexdigest()
    assert styles[0].picture.size == (640, 256)


def test_a_style_is_scaled_to_its_short_side(tmp_path: Path, noise: Noise, encode: Encode) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(0, 90, 30)))
    (style,) = load_styles([str(path)])
    expected = Image.fromarray(noise(0, 90, 30)).resize((256, 768), Image.Resampling.BICUBIC)
    assert style.picture.tobytes() == expected.tobytes()


def test_unknown_repeated_and_missing_styles_are_named(tmp_path: Path, noise: Noise, encode: Encode) -> None:
    for name in ("a.png", "copy.png"):
        (tmp_path / name).write_bytes(encode(noise(0)))
    cases = [
        (["plaid"], "There is no style 'plaid'"),
        ([""], "There is no style ''"),
        ([str(tmp_path / "absent.png")], "There is no style"),
        ([], "No style given"),
        (["dots", "dots"], "The style dots is given twice"),
        ([str(tmp_path)], "The style copy.png is given twice"),
    ]
    for names, message in cases:
        with pytest.raises(InputError, match=message):
            load_styles(names)


def test_all_broken_style_files_are_named_at_once_and_read_once(
    tmp_path: Path, noise: Noise, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fitted = tmp_path / "styles", tmp_path / "a.style.safetensors"
    folder.mkdir()
    payload = encode(noise(0))
    broken = {"cut.png": payload[: len(payload) // 2], "empty.jpg": b"", "page.png": b"<html>"}
    for name, data in {**broken, "whole.png": payload}.items():
        (folder / name).write_bytes(data)
    (folder / "self.png").symlink_to("self.png")
    fitted.write_bytes(b"nothing")
    read: list[str] = []
    read_file = PictureFile.read

    def record(file: PictureFile) -> bytes:
        read.append(file.name)
        return read_file(file)

    monkeypatch.setattr(PictureFile, "read", record)
    with pytest.raises(InputError, match=r"^5 styles cannot be used") as caught:
        load_styles(["dots", str(folder), str(fitted)])
    assert all(str(folder / name) in str(caught.value) for name in (*broken, "self.png"))
    assert str(fitted) in str(caught.value)
    assert "whole.png" not in str(caught.value)
    assert sorted(read) == sorted([*broken, "self.png", "whole.png"])


def test_one_broken_style_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match="holds no pictures"):
        load_styles([str(tmp_path / "empty")])
    with pytest.raises(InputError, match=r"^The style .*page\.png is not a picture"):
        load_styles([str(tmp_path / "page.png")])
