import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attack import read_result, write_report
from stylize.errors import InputError

Maker = Callable[..., Path]
VOID = {"meta", "img", "br"}
SVG_ALONE = {"path", "use", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, ids and everything that a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


@pytest.fixture
def results(shards: Path, make_result: Maker) -> list[Path]:
    return [make_result(shards, "home-made <method>"), make_result(shards, "pairing")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_page_is_whole_and_loads_nothing(results: list[Path], shards: Path, tmp_path: Path) -> None:
    html = write_report(results, tmp_path / "report", shards=[shards]).read_text(encoding="utf-8")

    page = Page(html)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert len(set(page.ids)) == len(page.ids)
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    for words in ("pairing", "home-made <method>", "class0", "1.02/255", "Gradient masking", "eval mode"):
        assert words in page.text  # 8 steps of 0.0005 reach 0.004 = 1.02/255
    assert html.count('<img alt="stylized"') == 3
    assert 'name="viewport"' in html


def test_figures_and_tables_beside_the_page(results: list[Path], tmp_path: Path) -> None:
    write_report(results, tmp_path / "report")
    name = "figures/mobilenet_v3_small-shards"
    content = files(tmp_path / "report")
    assert set(content) == {"index.html", "curves.csv", "metrics.json", f"{name}.png", f"{name}.svg"}
    with Image.open(tmp_path / "report" / f"{name}.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 10
    assert content[f"{name}.svg"].startswith(b"<?xml")

    with open(tmp_path / "report" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    stored = [curve for path in results for curve in read_result(path).document["curves"]]
    assert len(rows) == sum(len(curve["distance"]) for curve in stored)
    authors = next(c for c in read_result(results[1]).document["curves"] if c["interpolator"] == "authors")
    found = [r for r in rows if (r["method"], r["interpolator"], r["norm"]) == ("pairing", "authors", authors["norm"])]
    np.testing.assert_allclose([float(row["accuracy"]) for row in found], authors["accuracy"], rtol=1e-5)

    table = json.loads((tmp_path / "report" / "metrics.json").read_text())
    prefix = "mobilenet_v3_small on shards: "
    assert list(table[0]) == ["linf", prefix + "pairing", prefix + "home-made <method>"]
    linear = next(
        curve
        for curve in read_result(results[1]).document["curves"]
        if (curve["interpolator"], curve["norm"]) == ("linear", "linf")
    )
    np.testing.assert_allclose([row["linf"] for row in table], linear["distance"], rtol=1e-5)
    np.testing.assert_allclose([row[prefix + "pairing"] for row in table], linear["accuracy"], rtol=1e-5)


def test_bytes_do_not_depend_on_the_run_or_the_order(results: list[Path], shards: Path, tmp_path: Path) -> None:
    write_report(results, tmp_path / "one", shards=[shards])
    write_report(results[::-1], tmp_path / "two", shards=[shards])
    write_report(results, tmp_path / "one", shards=[shards])  # over an earlier report
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_ranking_is_computed_from_the_records(results: list[Path], tmp_path: Path) -> None:
    text = Page(write_report(results, tmp_path / "report").read_text(encoding="utf-8")).text
    for path in results:
        result = read_result(path)
        points = np.linspace(0, 0.004, 101)
        values = np.array(
            [np.interp(points, x, y) for x, y in zip(result.records.linf, result.records.correct, strict=True)]
        )
        mean, error = values.mean(), values.mean(1).std(ddof=1) / 6**0.5
        assert f"{100 * mean:.1f} ± {100 * error:.1f} % on average" in text
        assert f"{100 * values[:, -1].mean():.1f} ±" in text


def test_models_of_one_method_are_told_apart(shards: Path, make_result: Maker, tmp_path: Path) -> None:
    paths = [make_result(shards, "pairing", seed=seed) for seed in (0, 1)]
    text = Page(write_report(paths, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "pairing (pairing-0)" in text
    assert "pairing (pairing-1)" in text


def test_failed_checks_are_shown(results: list[Path], tmp_path: Path) -> None:
    document = json.loads(results[0].read_text())
    document["checks"][2]["passed"] = False
    results[0].write_text(json.dumps(document))
    html = write_report(results, tmp_path / "report").read_text(encoding="utf-8")
    assert "1 sanity check failed" in html
    assert html.count("<details open>") == 1
    assert "All sanity checks passed" not in html


def test_results_that_cannot_be_compared(
    shards: Path, make_result: Maker, make_shard_folder: Maker, tmp_path: Path
) -> None:
    one = make_result(shards, "normal")
    other = make_result(shards, "pairing", steps=4)
    out = tmp_path / "report"
    for results, folders, message in (
        ([one, other], [], r"steps 8 but .* with 4"),
        ([one, one], [], "same model"),
        ([], [], "no result"),
        ([tmp_path / "missing.json"], [], "cannot be read"),
        ([one], [make_shard_folder("foreign", seed=1)], "not a shard folder of these results"),
        ([one], [tmp_path / "nowhere"], "not a finished shard folder"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(results, out, shards=folders)
    assert not out.exists()
