import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stylize.console import InputError
from stylize.jobs.cue_conflict import TEXTURE_FREE, Cue, CueSet, design_cues, make_cue_set, open_cue_set, paint_cues
from stylize.jobs.job import Failure, Job, make_spec
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.shards import Sample, read_shard
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from stylize.sources import Source
from stylize.sources.opening import open_source
from stylize.sources.shapes import CLASS_NAMES, draw_shape

Run = Callable[..., tuple[int, str, str]]
Maker = Callable[..., Path]


def samples(folder: Path) -> list[Sample]:
    return [sample for path in read_manifest(folder).paths(folder, "test") for sample in read_shard(path)]


def pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


Paint = Callable[..., list[Sample | Failure]]


@pytest.fixture(scope="module")
def paint(encoder: Encoder, decoder: Decoder) -> Paint:
    """Return a function that paints cues of a folder with the random networks."""
    placeholder = Style("placeholder", "", Image.new("RGB", (16, 16)))
    stylizer = Stylizer(encoder, decoder, [placeholder], "float32")

    def make(data: Path, cues: list[Cue], work_size: int | None = None) -> list[Sample | Failure]:
        source = open_source(str(data))
        options = ShardOptions(codec="png", alpha=0.8, size=16, work_size=work_size)
        job = Job(make_spec(options, source, [], ("encoder", "decoder"), stylizer), source, stylizer)
        return list(paint_cues(job, cues))

    return make


def to_tensor(picture: Image.Image, side: int) -> Tensor:
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    return F.interpolate(tensor, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.parametrize("work_size", [None, 32])
def test_the_content_of_one_class_and_the_style_of_another(
    paint: Paint, encoder: Encoder, decoder: Decoder, class_folders: Path, work_size: int | None
) -> None:
    """Compared with the networks as published, one picture at a time."""
    source, network, side = open_source(str(class_folders)), AdaINNetwork(encoder, decoder), work_size or 16
    cues = design_cues(source, per_class=2, seed=0)
    results = paint(class_folders, cues, work_size)
    assert [result.key for result in results if isinstance(result, Sample)] == [f"{cue.shape:08d}" for cue in cues]
    for cue, result in zip(cues, results, strict=True):
        assert isinstance(result, Sample)
        content, texture = (
            Image.open(class_folders / source.path("test", index)).resize((16, 16), Image.Resampling.BICUBIC)
            for index in (cue.shape, cue.texture)
        )
        style = texture.resize((side, side), Image.Resampling.BICUBIC)
        stylized = network(to_tensor(content, side), *network.style_statistics(to_tensor(style, side)), 0.8)
        expected = F.interpolate(stylized, (16, 16), mode="bicubic", antialias=True)[0].clamp(0, 1) * 255
        assert np.abs(pixels(result.content) - expected.permute(1, 2, 0).numpy()).max() < 1.5  # half for rounding
        assert result.label == source.label("test", cue.shape)
        assert result.metadata["texture"] == source.class_names[source.label("test", cue.texture)]
        assert result.metadata["texture"] != source.class_names[result.label]
        for name, index in (("source", cue.shape), ("texture_source", cue.texture)):
            data = (class_folders / source.path("test", index)).read_bytes()
            assert result.metadata[name] == source.path("test", index)
            assert result.metadata[f"{name}_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_broken_image_is_named_as_shape_and_as_texture(paint: Paint, class_folders: Path) -> None:
    source = open_source(str(class_folders))
    cats = [index for index in range(source.count("test")) if source.label("test", index) == 0]
    dogs = [index for index in range(source.count("test")) if source.label("test", index) == 1]
    broken, sound = source.path("test", cats[0]), source.path("test", dogs[0])
    (class_folders / broken).write_bytes(b"<html>")
    as_shape, as_texture, other = paint(
        class_folders, [Cue(cats[0], dogs[0]), Cue(dogs[0], cats[0]), Cue(cats[1], dogs[1])]
    )
    assert as_shape == Failure("test", broken, "is not a picture in a known format")
    assert isinstance(as_texture, Failure)
    assert (as_texture.path, broken in as_texture.reason) == (sound, True)
    assert isinstance(other, Sample)
    assert paint(class_folders, [Cue(cats[0], dogs[0])]) == [as_shape]


@pytest.mark.parametrize("size", [None, 32])
def test_shapes_have_an_exact_split(tmp_path: Path, size: int | None) -> None:
    out = tmp_path / "conflict"
    make_cue_set(open_cue_set(ShardOptions(codec="png", size=size), per_class=3), out)
    assert verify_shards(out) == []
    found = samples(out)
    assert sorted(sample.label for sample in found) == sorted(3 * list(range(10)))
    for sample in found:
        drawn = draw_shape(int(sample.key), size=64, split="conflict")
        expected = drawn.picture.resize((size, size), Image.Resampling.BICUBIC) if size else drawn.picture
        assert np.array_equal(pixels(sample.content), np.asarray(expected))
        assert drawn.texture is not None
        assert (sample.label, sample.metadata["texture"]) == (drawn.shape, CLASS_NAMES[drawn.texture])
        assert sample.metadata["texture"] != CLASS_NAMES[sample.label]


def test_texture_free_shapes_name_no_texture(tmp_path: Path) -> None:
    make_cue_set(open_cue_set(ShardOptions(), per_class=1, kind=TEXTURE_FREE), tmp_path / "plain")
    assert len(samples(tmp_path / "plain")) == 10
    assert all("texture" not in sample.metadata for sample in samples(tmp_path / "plain"))
    assert read_manifest(tmp_path / "plain").spec["kind"] == "texture-free"


def test_the_same_options_give_the_same_bytes_and_are_made_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_cue_set(open_cue_set(ShardOptions(), per_class=2), tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    counted: list[int] = []
    make_cue_set(open_cue_set(ShardOptions(), per_class=2), tmp_path / "one", report=counted.append)
    assert counted == []
    with pytest.raises(InputError, match="made with other options"):
        make_cue_set(open_cue_set(ShardOptions(), per_class=3), tmp_path / "one")


def a_set(*results: Sample | Failure) -> CueSet:
    spec = open_cue_set(ShardOptions(), per_class=1).spec
    return CueSet({**spec, "counts": {"train": 0, "test": len(results)}}, iter(results))


def test_failures_are_counted_and_limited(tmp_path: Path) -> None:
    (good,) = [sample for sample in open_cue_set(ShardOptions(), 1).results if getattr(sample, "label", None) == 4]
    bad = Failure("test", "test/cat/1.jpg", "is truncated")
    with pytest.raises(InputError, match=r"1 image .*test/cat/1.jpg is truncated"):
        make_cue_set(a_set(good, bad), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert make_cue_set(a_set(good, bad), tmp_path / "out", max_failures=1).failures == 1
    assert verify_shards(tmp_path / "out") == []
    line = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert line == {"split": "test", "path": "test/cat/1.jpg", "reason": "is truncated"}


def test_nothing_is_left_of_an_interrupted_run_and_the_next_one_ends(tmp_path: Path) -> None:
    def stops() -> Iterator[Sample | Failure]:
        yield from list(open_cue_set(ShardOptions(), per_class=1).results)[:3]
        raise KeyboardInterrupt

    whole = open_cue_set(ShardOptions(), per_class=1)
    with pytest.raises(KeyboardInterrupt):
        make_cue_set(CueSet(whole.spec, stops()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make_cue_set(whole, tmp_path / "out")
    assert verify_shards(tmp_path / "out") == []


def test_the_command(run: Run, class_folders: Path) -> None:
    arguments = ("--data", class_folders, "--size", 16, "--per-class", 2, "--dtype", "float32")
    code, text, _ = run("cue-conflict", "--out", "conflict", *arguments)
    assert (code, "conflict: 4 cue-conflict test images" in text) == (0, True)
    code, text, _ = run("verify", "conflict")
    assert (code, "no defects" in text) == (0, True)
    assert read_manifest(Path("conflict")).spec["kind"] == "cue-conflict"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "no data set 'missing'"),
        (["--data", "images", "--texture-free"], "has no texture-free images"),
    ],
)
def test_mistakes(run: Run, class_folders: Path, arguments: list[object], message: str) -> None:
    code, _, error = run("cue-conflict", "--out", "out", *arguments)
    assert (code, message in error, "Traceback" in error) == (2, True, False)
    assert not Path("out").exists()


@dataclass
class Labels:
    """A source of which only the labels of the test images are looked at."""

    labels: list[int]
    name: str = "labels"

    def count(self, split: str) -> int:
        return len(self.labels) if split == "test" else 0

    def label(self, split: str, index: int) -> int:
        return self.labels[index]


def source_of(labels: list[int]) -> Source:
    return cast(Source, Labels(labels))


def test_every_pair_of_classes_is_as_frequent_as_any_other() -> None:
    labels = [index % 4 for index in range(80)]
    cues = design_cues(source_of(labels), per_class=6, seed=0)
    pairs = Counter((labels[cue.shape], labels[cue.texture]) for cue in cues)
    assert pairs == {(shape, texture): 2 for shape in range(4) for texture in range(4) if shape != texture}
    assert len({cue.shape for cue in cues}) == 24


def test_classes_of_any_size() -> None:
    labels = [0] * 50 + [1] + [2] * 3  # and no image of class 3
    cues = design_cues(source_of(labels), per_class=5, seed=1)
    assert Counter(labels[cue.shape] for cue in cues) == {0: 5, 1: 1, 2: 3}
    assert all(labels[cue.shape] != labels[cue.texture] for cue in cues)


def test_the_seed_alone_decides() -> None:
    labels = [index % 3 for index in range(60)]
    designs = [design_cues(source_of(labels), per_class=8, seed=seed) for seed in (0, 0, 1)]
    assert designs[0] == designs[1] != designs[2]


def test_one_class_has_no_conflict() -> None:
    with pytest.raises(InputError, match="test images of 1 classes"):
        design_cues(source_of([5, 5]), per_class=5, seed=0)
