import csv
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attack import read_result, worst_case, write_report
from attack.checks.robustness import wilson
from attack.report.page import command, paper_words
from stylize.console import InputError
from stylize.files import file_sha256
from stylize.shards.manifest import MANIFEST_NAME

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
    return [make_result(shards, "home-made <method>", seed=1), make_result(shards, "pairing")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(paths: list[Path], out: Path, **options: Any) -> Page:
    return Page(write_report(paths, out, **options).read_text(encoding="utf-8"))


def test_page_is_whole_and_loads_nothing(results: list[Path], shards: Path, tmp_path: Path) -> None:
    html = write_report(results, tmp_path / "report", shards=[shards]).read_text(encoding="utf-8")

    page = Page(html)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert len(set(page.ids)) == len(page.ids)
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    for words in ("pairing", "home-made <method>", "class0", "1.02/255", "No attack proves robustness", "eval mode"):
        assert words in page.text  # 8 steps of 0.0005 reach 0.004 = 1.02/255
    assert html.count('<img alt="stylized"') == 3
    assert 'name="viewport"' in html


@pytest.mark.usefixtures("undrawn")
def test_verdicts_and_robust_accuracy_come_first(results: list[Path], tmp_path: Path) -> None:
    text = write(results, tmp_path / "report").text
    titles = "Verdicts", "Robust accuracy against the size", "What this does not show", "along the paper’s path"
    assert sorted(titles, key=text.index) == list(titles)
    for path in results:
        result = read_result(path)
        assert result.verdicts[-1].word in text
        for epsilon in (2 / 255, 8 / 255):
            robust = sum(worst_case(result.clean, result.attacks, "linf", epsilon))
            low, high = (100 * end for end in wilson(robust, 12))
            assert f"{100 * robust / 12:.1f} % [{low:.1f}, {high:.1f}]" in text


@pytest.mark.usefixtures("undrawn")
def test_curves_are_those_of_the_common_images(results: list[Path], tmp_path: Path) -> None:
    write_report(results, tmp_path / "report")
    one, two = (read_result(path) for path in results)
    common = [key for key in one.records.keys if key in two.records.keys]
    assert 0 < len(common) < min(len(one.records.keys), len(two.records.keys))

    rows = read_csv(tmp_path / "report" / "curves.csv")
    for result, label in ((one, "home-made <method>"), (two, "pairing")):
        points, slow = np.linspace(0, 0.004, 101), []
        for key in result.keys:
            index = result.records.keys.index(key) if key in result.records.keys else None
            path = (result.records.linf[index], result.records.correct[index]) if index is not None else ([0.0], [0.0])
            slow.append((key, np.interp(points, *path)))
        for over, mean in (
            ("common", np.mean([values for key, values in slow if key in common], axis=0)),
            ("all", np.mean([values for _, values in slow], axis=0)),
        ):
            found = [
                float(row["accuracy"])
                for row in rows
                if (row["model"], row["over"], row["interpolator"], row["norm"]) == (label, over, "linear", "linf")
            ]
            np.testing.assert_allclose(found, mean, atol=2e-3)
    assert f"{len(common)} common images" in (tmp_path / "report" / "index.html").read_text()


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files_for_other_tools(results: list[Path], tmp_path: Path) -> None:
    write_report(results, tmp_path / "report")
    figures = {f"figures/shards{part}.{kind}" for part in ("", "-path") for kind in ("png", "svg")}
    content = files(tmp_path / "report")
    metrics = {"metrics/home-made-method-1.json", "metrics/pairing-0.json"}
    assert set(content) == {
        "index.html", "curves.csv", "security.csv", "plots/l2.csv", "plots/linf.csv", *figures, *metrics,
    }  # fmt: skip
    for name in figures:
        if name.endswith("svg"):
            assert content[name].startswith(b"<?xml")
        else:
            with Image.open(tmp_path / "report" / name) as picture:
                assert picture.width > 500
                assert np.asarray(picture.convert("L")).std() > 10
    plotted = read_csv(tmp_path / "report" / "plots" / "linf.csv")
    assert {row["model"] for row in plotted[::101]} == {"pairing", "home-made <method>"}
    result = read_result(results[1])
    robust = {
        f"robust_{level}_of_255": round(sum(worst_case(result.clean, result.attacks, "linf", level / 255)) / 12, 4)
        for level in (2, 8)
    }
    clean = round(result.document["clean"]["correct"] / 30, 4)
    verdicts: dict[str, object] = {f"verdict_{level}_of_255": "inconclusive" for level in (2, 8)}
    verdicts |= {f"images_{level}_of_255": 12 for level in (2, 8)}
    assert json.loads(content["metrics/pairing-0.json"]) == {"clean": clean, **robust, **verdicts}


def test_bytes_do_not_depend_on_the_run_or_the_order(results: list[Path], shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report(results, out, shards=[shards])
    first = files(out)
    write_report(results[::-1], out, shards=[shards])  # over an earlier report
    assert files(out) == first


def paired(one: str, other: str, text: str) -> bool:
    """Tell whether two models are compared, whichever is the better."""
    return f"{one} − {other}" in text or f"{other} − {one}" in text


def edited(path: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a result with another model card."""
    document = json.loads(path.read_text())
    change(document["model"]["card"])
    to.write_text(json.dumps(document))
    return to


def test_style_sets_are_compared(shards: Path, make_shard_folder: Maker, make_result: Maker, tmp_path: Path) -> None:
    other = make_shard_folder("marble", test=30, styles_per_image=2)
    digest = file_sha256(other / MANIFEST_NAME)
    results = [
        make_result(shards, "normal", epsilons=(1e-4,)),
        make_result(shards, "pairing", epsilons=(1e-4,)),
        make_result(shards, "pairing", seed=1, epsilons=(1e-4,), trained_on=digest),
    ]
    page = write(results, tmp_path / "report", shards=[shards, other], paper=True)
    assert "Figure 7" in page.text
    assert paired("pairing on shards", "pairing on marble", page.text)
    assert "Figure 3: pairing against normal training" in page.text
    assert "Figure 4:" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_papers_numbers_are_shown_where_asked_for(results: list[Path], shards: Path, tmp_path: Path) -> None:
    alone = write(results, tmp_path / "alone", shards=[shards]).text
    beside = write(results, tmp_path / "beside", shards=[shards], paper=True).text
    for words in ("Figure 2", "Figures 3 to 5", "Tables 1 and 2", "ImageNet", "authors’ interpolator", "92.00 %"):
        assert words not in alone
        assert words in beside


@pytest.mark.usefixtures("undrawn")
def test_failed_checks_are_shown(results: list[Path], tmp_path: Path) -> None:
    document = json.loads(results[0].read_text())
    for check in document["checks"]:
        check["passed"] = check["name"] != "eval mode"
    results[0].write_text(json.dumps(document))
    for path in results[1:]:
        document = json.loads(path.read_text())
        for check in document["checks"]:
            check["passed"] = True
        path.write_text(json.dumps(document))
    html = write_report(results, tmp_path / "report").read_text(encoding="utf-8")
    assert "1 check failed" in html
    assert html.count('<span class="fail">1 failed') == 1
    assert "all checks passed" not in html


@pytest.mark.usefixtures("undrawn")
def test_a_model_near_chance_is_named_and_not_compared(results: list[Path], tmp_path: Path) -> None:
    document = json.loads(results[0].read_text())
    for verdict in document["verdicts"]:
        verdict["word"] = "near chance"
    results[0].write_text(json.dumps(document))
    text = write(results, tmp_path / "report").text
    assert "hardly beats guessing" in text
    assert "home-made <method> − " not in text
    rows = read_csv(tmp_path / "report" / "curves.csv")
    assert {row["model"] for row in rows} == {"pairing"}
    assert text.index("pairing") < text.index("home-made <method>")  # last in its table


def share_of(successes: int, n: int) -> dict[str, float]:
    low, high = wilson(successes, n)
    return {"share": successes / n, "low": low, "high": high, "successes": successes, "n": n}


@pytest.mark.usefixtures("undrawn")
def test_what_was_measured_beside(results: list[Path], shards: Path, tmp_path: Path) -> None:
    model = read_result(results[1]).document["model"]
    bias = {
        "kind": "shape-bias", "model": model, "shape_bias": share_of(3, 4), "shape_accuracy": share_of(3, 9),
        "texture_accuracy": share_of(1, 9), "texture_free": None,
    }  # fmt: skip
    records = [{"corruption": "fog", "severity": level, "error": share_of(level, 10)} for level in (1, 2)]
    corrupted = {
        "kind": "corruptions", "model": model, "corruptions_from": "home-made", "images": 10, "clean_error": None,
        "mean_corruption_error": {"mean": 0.15, "standard_error": 0.01}, "records": records,
    }  # fmt: skip
    paths = [tmp_path / "bias.json", tmp_path / "corrupted.json", tmp_path / "explained.png"]
    for path, document in zip(paths, (bias, corrupted), strict=False):
        path.write_text(json.dumps(document))
    Image.new("RGB", (8, 8)).save(paths[2])

    page = write(results, tmp_path / "report", beside=paths[:2], explanations=paths[2])

    assert "75.0 % [30.1, 95.4]" in page.text  # Wilson of 3 of 4
    assert "15.0 %" in page.text
    assert "What models go by" in page.text
    assert page.open == []
    for path, content in ((paths[0], "{}"), (paths[1], '{"kind": "other"}'), (paths[2], "no picture")):
        sound = path.read_bytes()
        path.write_text(content)
        with pytest.raises(InputError, match=path.name):
            write_report(results, tmp_path / "report", beside=paths[:2], explanations=paths[2])
        path.write_bytes(sound)


@pytest.mark.usefixtures("undrawn")
def test_measurements_must_be_of_one_model_each(results: list[Path], tmp_path: Path) -> None:
    bias = {
        "kind": "shape-bias", "model": read_result(results[1]).document["model"], "shape_bias": share_of(3, 4),
        "shape_accuracy": share_of(3, 9), "texture_accuracy": share_of(1, 9), "texture_free": None,
    }  # fmt: skip
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        path.write_text(json.dumps(bias))
    for reported, beside, message in (
        (results, paths, "one.json and .*two.json are shape-bias of one model"),
        (results[:1], paths[:1], "one.json is of no model of these results"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(reported, tmp_path / "report", beside=beside)


@pytest.mark.usefixtures("undrawn")
def test_images_of_equal_keys_are_no_common_images(shards: Path, make_result: Maker, tmp_path: Path) -> None:
    results = [make_result(shards, "normal", suite="paper")]
    others = [
        edited(path, path.with_name(f"other-{path.name}"), lambda card: card.update(class_names=["a", "b", "c"]))
        for path in results
    ]
    alone, both = tmp_path / "alone", tmp_path / "both"
    write(results, alone)
    write([*results, *others], both)
    models = {row["model"] for row in read_csv(alone / "plots" / "linf.csv")}
    assert len({row["model"] for row in read_csv(both / "plots" / "linf.csv")}) == 2 * len(models)
    assert len(list((both / "figures").glob("*.png"))) == 2 * len(list((alone / "figures").glob("*.png")))


def test_the_command_makes_the_result_again(shards: Path, make_result: Maker) -> None:
    result = read_result(make_result(shards, "normal", norm="linf,l2", epsilons_l2=(0.25, 1 / 3), images=4, steps=2))
    attack = result.attacks[-1]
    own = [replace(attack, name=name) for name in ("mine:attack", "mine:attack", "pgd-mine:loss", "transfer:other")]
    document = {**result.document, "protocol": {**result.document["protocol"], "eot": 3, "surrogate": "mine:net"}}
    words = shlex.split(command(replace(result, document=document, attacks=(*result.attacks, *own))))
    given = list(zip(words[2::2], words[3::2], strict=True))
    radii = [("--norm", "linf,l2"), ("--epsilon", "2/255"), ("--epsilon", "8/255"), ("--epsilon-l2", "0.25")]
    radii += [("--epsilon-l2", "0.333333333333"), ("--attack", "mine:attack"), ("--loss", "mine:loss")]
    assert [option for option in given if option in radii] == radii
    assert {("--eot", "3"), ("--surrogate", "mine:net"), ("--images", "4"), ("--suite", "quick")} <= set(given)
    assert "transfer:other" not in words


def test_the_phrase_papers_protocol_is_earned(shards: Path, make_result: Maker, tmp_path: Path) -> None:
    result = read_result(make_result(shards, "normal", suite="paper", images=4, steps=2))
    document = json.loads(json.dumps(result.document))
    assert paper_words(result).startswith("3 images × 2 steps × 0.0005; the paper has")
    document["path"] |= {"steps": 100, "step_size": 1e-4}
    assert "; the paper has" in paper_words(replace(result, document=document))
    document["path"]["records"] = document["path"]["records"] * 50
    count = len(document["path"]["records"])
    more = paper_words(replace(result, document=document))
    assert more == f"{count} images × 100 steps × 0.0001: the paper’s protocol on {count - 100} more images"


def test_results_that_cannot_be_compared(
    shards: Path, make_result: Maker, make_shard_folder: Maker, tmp_path: Path
) -> None:
    one = make_result(shards, "normal", suite="paper")
    other = make_result(shards, "pairing", suite="paper", steps=4)
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
