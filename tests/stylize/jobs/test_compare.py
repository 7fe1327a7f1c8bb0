"""Folders of shards compared, joined, and made again in part."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.jobs.pairs import merge_shards
from stylize.shards.diff import diff_samples, diff_specs
from stylize.shards.manifest import read_manifest, write_manifest
from stylize.shards.shard import Sample, read_shard, write_shard
from stylize.shards.verify import verify_shards

Run = Callable[..., tuple[int, str, str]]
MakeClassFolders = Callable[..., Path]


def samples(folder: Path, split: str) -> list[Sample]:
    return [sample for path in read_manifest(folder).paths(folder, split) for sample in read_shard(path)]


def made(run: Run, data: Path, out: str, *options: object) -> None:
    code, _, error = run("shards", "--data", data, "--size", 16, "--dtype", "float32", "--out", out, *options)
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
    made(run, class_folders, "b", "--style", "marble", "--alpha", 0.5, "--seed", 3)
    code, text, _ = run("diff", "a", "b")
    assert (code, "spec alpha: 1.0 | 0.5" in text, "train: 12 of 12 common samples differ styled of 12" in text) == (
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
        assert (sample.metadata["styles"], sample.metadata["alphas"]) == (["dots", "marble"], [1.0, 0.5])
    assert samples(both, "test") == samples(tmp_path / "a", "test")
    assert run("diff", "a", "a")[0] == 0


def test_other_images_are_added(run: Run, make_class_folders: MakeClassFolders, tmp_path: Path) -> None:
    make_class_folders(tmp_path / "one", train=6, test=2)
    make_class_folders(tmp_path / "two", train=20, test=4)
    for path in sorted((tmp_path / "two").rglob("*.png")):
        if (tmp_path / "one" / path.relative_to(tmp_path / "two")).exists():
            path.unlink()
    made(run, tmp_path / "one", "a", "--style", "dots")
    made(run, tmp_path / "two", "b", "--style", "dots")
    merged = merge_shards(tmp_path / "a", tmp_path / "b", tmp_path / "both")
    assert verify_shards(tmp_path / "both") == []
    assert (merged.samples("train"), merged.samples("test"), merged.styles_per_image) == (20, 4, 1)
    for split in ("train", "test"):
        parts = [*samples(tmp_path / "a", split), *samples(tmp_path / "b", split)]
        found = samples(tmp_path / "both", split)
        assert {(s.content, s.styled, s.label) for s in found} == {(s.content, s.styled, s.label) for s in parts}
        assert sorted(sample.key for sample in found) == [f"{index:08d}" for index in range(len(parts))]
    with pytest.raises(InputError, match="8 of 8 and 24 images in common: merge folders of the same images"):
        merge_shards(tmp_path / "a", tmp_path / "both", tmp_path / "more")
    made(run, tmp_path / "two", "png", "--style", "dots", "--codec", "png")
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
