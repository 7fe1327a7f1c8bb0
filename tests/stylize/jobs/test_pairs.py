"""Shards of pairs made elsewhere or before: packed, compared, merged, and held against the networks."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stylize.console import InputError
from stylize.jobs.pairs import merge_shards, pack_pairs
from stylize.jobs.spec import ShardOptions
from stylize.shards import Sample, read_shard, write_shard
from stylize.shards.diff import diff_samples, diff_specs
from stylize.shards.export import export_shards
from stylize.shards.manifest import read_manifest, write_manifest
from stylize.shards.verify import verify_shards

MakeShards = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def copies_of(originals: Path, folder: Path, name: str = "{stem}-stylized-{style}.png", styles: str = "monet") -> Path:
    """Write inverted copies of every training image as stylize-datasets would name them."""
    for path in (originals / "train").rglob("*.png"):
        target = folder / path.parent.relative_to(originals)
        target.mkdir(parents=True, exist_ok=True)
        for style in styles.split():
            with Image.open(path) as picture:
                picture.point(lambda value: 255 - value).save(target / name.format(stem=path.stem, style=style))
    return folder


def packed(originals: Path, out: Path, *copies: Path, **options: object) -> Path:
    pack_pairs(ShardOptions(data=str(originals), codec="png", **options), copies, out)  # type: ignore[arg-type]
    assert verify_shards(out) == []
    return out


def test_what_stylize_datasets_writes(class_folders: Path, tmp_path: Path) -> None:
    copies = copies_of(class_folders, tmp_path / "copies", styles="monet klee")
    (copies / "skipped_imgs.txt").write_text("none\n")
    out = packed(class_folders, tmp_path / "out", copies)
    manifest = read_manifest(out)
    assert (manifest.styles_per_image, manifest.style_names, manifest.samples("test")) == (2, ["klee", "monet"], 4)
    for sample in read_shard(out / "train-000000.tar"):
        source = class_folders / sample.metadata["source"]
        name = f"{source.stem}-stylized-{{}}.png"
        expected = [copies / source.parent.relative_to(class_folders) / name.format(s) for s in ("klee", "monet")]
        assert sample.content == source.read_bytes()
        assert list(sample.styled) == [path.read_bytes() for path in expected]
        assert sample.metadata["styles"] == ["klee", "monet"]
        assert sample.metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert manifest.class_names[sample.label] == source.parent.name
    again = packed(class_folders, tmp_path / "again", copies)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_unpacked_shards_are_packed_to_the_same_pairs(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    folder = make_shard_folder(styles_per_image=2)
    export_shards(folder, tmp_path / "files", "folder")
    out = packed(*(tmp_path / name for name in ("files/original", "out", "files/stylized0", "files/stylized1")))
    assert read_manifest(out).style_names == ["stylized0", "stylized1"]
    for split in ("train", "test"):
        before, after = (
            {(s.content, s.styled, s.label) for path in read_manifest(of).paths(of, split) for s in read_shard(path)}
            for of in (folder, out)
        )
        assert before == after


def test_a_size_is_given_to_both(class_folders: Path, tmp_path: Path) -> None:
    copies = copies_of(class_folders, tmp_path / "copies", "{stem}.png")
    out = packed(class_folders, tmp_path / "out", copies, size=16)
    assert read_manifest(out).spec["size"] == 16
    assert read_manifest(out).style_names == ["copies"]


def test_partners_that_are_missing_or_too_many_are_counted(class_folders: Path, tmp_path: Path) -> None:
    copies = copies_of(class_folders, tmp_path / "copies")
    (first, second, *_) = sorted(copies.rglob("*.png"))
    shutil.copy(first, first.with_name("stranger.png"))
    with pytest.raises(InputError, match=r"1 copy .*train/cat/stranger.png"):
        packed(class_folders, tmp_path / "out", copies)
    first.with_name("stranger.png").unlink()
    shutil.copy(first, first.with_name(first.name.replace("monet", "klee")))
    with pytest.raises(InputError, match=r"1 copy, but train/cat/000.png has 2"):
        packed(class_folders, tmp_path / "out", copies)
    for path in first.parent.glob("000-*"):
        path.unlink()
    second.unlink()
    with pytest.raises(InputError, match=r"2 training images of 12 .*train/cat/000.png"):
        packed(class_folders, tmp_path / "out", copies)
    assert not (tmp_path / "out").exists()


def test_a_mark_in_an_original_s_own_name(class_folders: Path, tmp_path: Path) -> None:
    path = class_folders / "train/cat/000.png"
    path.rename(path.with_name("a-stylized-b.png"))
    copies = copies_of(class_folders, tmp_path / "copies")
    out = packed(class_folders, tmp_path / "out", copies)
    assert read_manifest(out).style_names == ["monet"]


def test_two_originals_of_one_stem_are_refused(class_folders: Path, tmp_path: Path) -> None:
    shutil.copy(class_folders / "train/cat/000.png", class_folders / "train/cat/000.jpg")
    with pytest.raises(InputError, match="called train/cat/000,"):
        packed(class_folders, tmp_path / "out", tmp_path)


def test_unusable_copies_are_failures(class_folders: Path, tmp_path: Path) -> None:
    copies = copies_of(class_folders, tmp_path / "copies")
    small, broken, *_ = sorted(copies.rglob("*.png"))
    Image.new("RGB", (20, 16)).save(small)
    broken.write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"2 images .*20×16 pixels, its original 32×32"):
        packed(class_folders, tmp_path / "out", copies)
    options = ShardOptions(data=str(class_folders), codec="png")
    assert pack_pairs(options, [copies], tmp_path / "out", max_failures=2).failures == 2
    assert verify_shards(tmp_path / "out") == []


def test_the_commands(run: Run, class_folders: Path, tmp_path: Path) -> None:
    copies = copies_of(class_folders, tmp_path / "copies")
    code, text, _ = run("pack", class_folders, copies, "--out", "packed")
    assert (code, "packed: 12 training pairs and 4 test images in 2 shards" in text) == (0, True)
    code, text, _ = run("unpack", "packed", "--out", "files")
    assert (code, "files: 28 pictures of 16 samples" in text) == (0, True)
    code, text, _ = run("pack", "files/original", "files/stylized", "--out", "again")
    assert (code, "12 training pairs" in text) == (0, True)


MakeClassFolders = Callable[..., Path]


def samples(folder: Path, split: str) -> list[Sample]:
    return [sample for path in read_manifest(folder).paths(folder, split) for sample in read_shard(path)]


def made(run: Run, data: Path, out: str, *options: object) -> None:
    exact = () if "--stylizer" in options else ("--dtype", "float32")
    code, _, error = run("shards", "--data", data, "--size", 16, *exact, "--out", out, *options)
    assert code == 0, error


def test_a_folder_is_compared_sample_by_sample(finished: Path, copied: Path) -> None:
    assert all(split.is_empty for split in diff_samples(finished, copied))
    assert list(diff_specs(read_manifest(finished).spec, read_manifest(copied).spec)) == []
    first, second, third, *rest = read_shard(copied / "train-000001.tar")
    changed = [replace(first, label=1 - first.label), replace(second, styled=(second.content,)), *rest]
    write_shard(copied / "train-000001.tar", [*changed, replace(third, key="99999999")])
    train, test = diff_samples(finished, copied)
    assert train.differing == {first.key: ("label",), second.key: ("styled",)}
    assert (train.only_first, train.only_second, train.common) == ([third.key], ["99999999"], 11)
    assert test.is_empty


def test_the_same_images_get_the_copies_of_both(run: Run, class_folders: Path, tmp_path: Path) -> None:
    made(run, class_folders, "a", "--style", "dots")
    made(run, class_folders, "b", "--style", "marble", "--alpha", "0.4:0.5", "--seed", 3)
    code, text, _ = run("diff", "a", "b")
    assert (
        code,
        "spec alpha: 1.0 | 0.4:0.5" in text,
        "train: 12 of 12 common samples differ styled of 12" in text,
    ) == (
        1,
        True,
        True,
    )
    code, text, _ = run("merge", "a", "b", "--out", "both")
    assert (code, "both: 12 training pairs and 4 test images" in text) == (0, True)
    both = tmp_path / "both"
    assert verify_shards(both) == []
    assert (read_manifest(both).styles_per_image, read_manifest(both).style_names) == (2, ["dots", "marble"])
    first, second = ({sample.key: sample for sample in samples(tmp_path / name, "train")} for name in "ab")
    for sample in samples(both, "train"):
        assert sample.styled == (*first[sample.key].styled, *second[sample.key].styled)
        drawn = second[sample.key].metadata["alphas"]
        assert (sample.metadata["styles"], sample.metadata["alphas"]) == (["dots", "marble"], [1.0, *drawn])
        assert 0.4 <= drawn[0] <= 0.5
    assert samples(both, "test") == samples(tmp_path / "a", "test")
    assert run("diff", "a", "a")[0] == 0


def test_other_images_are_added(run: Run, make_class_folders: MakeClassFolders, tmp_path: Path) -> None:
    make_class_folders(tmp_path / "one", train=6, test=2)
    make_class_folders(tmp_path / "two", train=20, test=4)
    for path in sorted((tmp_path / "two").rglob("*.png")):
        if (tmp_path / "one" / path.relative_to(tmp_path / "two")).exists():
            path.unlink()
    inverted = ("--stylizer", "tests.stylize.jobs.own_stylizers:invert")
    made(run, tmp_path / "one", "a", *inverted)
    made(run, tmp_path / "two", "b", *inverted)
    merged = merge_shards(tmp_path / "a", tmp_path / "b", tmp_path / "both")
    assert verify_shards(tmp_path / "both") == []
    assert (merged.samples("train"), merged.samples("test"), merged.styles_per_image) == (20, 4, 1)
    for split in ("train", "test"):
        parts = [*samples(tmp_path / "a", split), *samples(tmp_path / "b", split)]
        found = samples(tmp_path / "both", split)
        assert {(s.content, s.styled, s.label) for s in found} == {(s.content, s.styled, s.label) for s in parts}
        assert sorted(sample.key for sample in found) == [f"{index:08d}" for index in range(len(parts))]
    with pytest.raises(InputError, match="8 of 8 and 24 images in common"):
        merge_shards(tmp_path / "a", tmp_path / "both", tmp_path / "more")
    made(run, tmp_path / "two", "png", *inverted, "--codec", "png")
    with pytest.raises(InputError, match="differ in codec"):
        merge_shards(tmp_path / "a", tmp_path / "png", tmp_path / "more")


def test_a_merged_folder_does_not_name_a_transfer_of_one_part(run: Run, class_folders: Path, tmp_path: Path) -> None:
    made(run, class_folders, "a", "--style", "dots")
    made(run, class_folders, "b", "--style", "dots", "--transfer", "colours")
    for first, second in ("ab", "ba"):
        merged = merge_shards(tmp_path / first, tmp_path / second, tmp_path / f"{first}{second}")
        assert merged.spec["transfer"] is None


@pytest.mark.parametrize("transfer", ["features", "colours", "both"])
def test_a_pair_is_made_again(run: Run, class_folders: Path, tmp_path: Path, transfer: str) -> None:
    made(run, class_folders, "a", "--style", "dots", "--codec", "png", "--transfer", transfer)
    key = samples(tmp_path / "a", "train")[3].key
    code, text, _ = run("rederive", "a", key)
    assert code == 0
    assert f"{key}, copy 0, dots: differs by " in text
    assert int(text.partition("differs by ")[2].split()[0]) <= 2  # another batch may round otherwise
    assert "no training sample 99999999" in run("rederive", "a", "99999999")[2]
    assert "another style than this" in run("rederive", "a", key, "--style", "marble")[2]
    manifest = read_manifest(tmp_path / "a")
    write_manifest(tmp_path / "a", replace(manifest, spec={**manifest.spec, "calibration_sha256": "0" * 64}))
    assert "another calibration of int8" in run("rederive", "a", key)[2]
