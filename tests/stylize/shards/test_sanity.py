from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stylize.files import file_sha256
from stylize.networks.stylizer import Pixels
from stylize.shards import Sample, write_shard
from stylize.shards.index import index_split
from stylize.shards.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from stylize.shards.verify import folder_warnings, resemblance

Pair = tuple[bytes, bytes]
Run = Callable[..., tuple[int, str, str]]


def write_folder(folder: Path, train: list[Sample], test: list[Sample], classes: int = 2) -> Path:
    folder.mkdir()
    entries = []
    for split, samples in (("train", train), ("test", test)):
        path = folder / f"{split}-000000.tar"
        write_shard(path, samples, "png")
        entries.append(ShardEntry(path.name, split, len(samples), path.stat().st_size, file_sha256(path)))
    spec = {
        "class_names": [f"class{label}" for label in range(classes)],
        "counts": {"train": len(train), "test": len(test)},
        "size": 32,
        "codec": "png",
        "alpha": 1.0,
        "styles": [{"name": "none", "sha256": "0" * 64}],
        "styles_per_image": 1,
    }
    write_manifest(folder, Manifest(spec, tuple(entries)))
    return folder


@pytest.fixture(scope="module")
def pairs(noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> list[Pair]:
    """Return 60 pictures and copies that have other colours, noise on top and the same large shapes."""

    def copy(seed: int) -> Pixels:
        grey = 0.6 * np.asarray(ImageOps.grayscale(Image.fromarray(noise(seed))))[..., None]
        texture = np.random.default_rng(seed).normal(60, 30, (32, 32, 3))
        return np.clip(grey * [1.0, 0.5, 0.2] + texture, 0, 255).astype(np.uint8)

    return [(encode(noise(seed)), encode(copy(seed))) for seed in range(60)]


def samples(pairs: list[Pair], order: list[int], classes: int = 2) -> list[Sample]:
    """Return samples whose copies are those of other originals, by `order`."""
    metadata = {"source": "a", "source_sha256": "0" * 64, "styles": ["none"], "alpha": 1.0}
    return [
        Sample(f"{index:08d}", content, (pairs[other][1],), index % classes, metadata)
        for index, ((content, _), other) in enumerate(zip(pairs, order, strict=True))
    ]


def found(folder: Path) -> list[str]:
    return list(folder_warnings(folder, read_manifest(folder)))


def test_right_pairs_are_not_warned_of(tmp_path: Path, pairs: list[Pair]) -> None:
    assert found(write_folder(tmp_path / "shards", samples(pairs, list(range(60))), [])) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("within_class", [False, True])
def test_shuffled_partners_are_warned_of(tmp_path: Path, pairs: list[Pair], seed: int, within_class: bool) -> None:
    order = np.random.default_rng(seed).permutation(60).tolist()
    if within_class:
        order = [(index + 2 * (1 + seed)) % 60 for index in range(60)]
    (warning,) = found(write_folder(tmp_path / "shards", samples(pairs, order), []))
    assert "stylized copies resemble their own original more than other originals of its class" in warning


def test_wrong_pairs_win_half_of_the_time(tmp_path: Path, pairs: list[Pair]) -> None:
    folder = write_folder(tmp_path / "shards", samples(pairs, list(range(60))), [])
    train = index_split(folder, read_manifest(folder), "train")
    assert resemblance(train) == (60, 60)
    wins = []
    for seed in range(12):
        spans = train.spans.copy()
        spans[:, 1] = spans[np.random.default_rng(seed).permutation(60), 1]
        wins.append(resemblance(replace(train, spans=spans))[0])
    assert np.mean(wins) == pytest.approx(30, abs=4.5)  # four standard errors


def test_flat_or_few_pictures_say_nothing(tmp_path: Path, pairs: list[Pair], encode: Callable[..., bytes]) -> None:
    flat = [(encode(np.full((32, 32, 3), value, np.uint8)), copy) for value, (_, copy) in enumerate(pairs)]
    order = [(index + 2) % 60 for index in range(60)]
    assert found(write_folder(tmp_path / "flat", samples(flat, order), [])) == []
    assert found(write_folder(tmp_path / "few", samples(pairs[:8], [7, 6, 5, 4, 3, 2, 1, 0]), [])) == []


def test_images_alone_in_their_class_are_compared_with_each_other(tmp_path: Path, pairs: list[Pair]) -> None:
    right, wrong = list(range(60)), [(index + 1) % 60 for index in range(60)]
    assert found(write_folder(tmp_path / "right", samples(pairs, right, 60), [], 60)) == []
    assert len(found(write_folder(tmp_path / "wrong", samples(pairs, wrong, 60), [], 60))) == 1


@pytest.mark.parametrize(("repeated", "warned"), [(0, False), (2, False), (3, True), (40, True)])
def test_test_images_from_train_are_warned_of(
    tmp_path: Path,
    pairs: list[Pair],
    noise: Callable[..., Pixels],
    encode: Callable[..., bytes],
    repeated: int,
    warned: bool,
) -> None:
    contents = [pair[0] for pair in pairs[:repeated]] + [encode(noise(1000 + seed)) for seed in range(40 - repeated)]
    test = [Sample(f"{index:08d}", content, (), index % 2, {}) for index, content in enumerate(contents)]
    warnings = found(write_folder(tmp_path / "shards", samples(pairs, list(range(60))), test))
    assert len(warnings) == warned
    if warned:
        assert f"{repeated} of 40 test images looked at are training images too" in warnings[0]


def test_a_big_split_is_sampled(tmp_path: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylize.shards.verify.READS", 30)
    train = samples(pairs, list(range(60)))
    folder = write_folder(tmp_path / "shards", train, [replace(sample, styled=()) for sample in train])
    (warning,) = found(folder)
    count = int(warning.split()[0])
    assert 3 <= count <= 15
    assert f"{count} of {count} test images" in warning


def test_verify_warns_and_stays_well(tmp_path: Path, run: Run, pairs: list[Pair]) -> None:
    right = samples(pairs, list(range(60)))
    write_folder(tmp_path / "right", right, [])
    code, out, _ = run("verify", "right")
    assert (code, "Warning" in out) == (0, False)
    wrong = [replace(sample, label=0, styled=right[index - 2].styled) for index, sample in enumerate(right)]
    write_folder(tmp_path / "wrong", wrong, [])
    code, out, _ = run("verify", "wrong")
    assert (code, out.count("Warning: ")) == (0, 2)
    assert "all training images are of one class" in " ".join(out.split())
