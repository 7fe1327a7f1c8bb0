"""What stands beside the shards, read by the programs that it is for, and by parsing it by hand."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.shards import read_shard
from stylize.shards.card import CARD_NAME
from stylize.shards.index import SIDE_NAME, write_side_files
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import quick_defects, verify_shards

SHARD = "train-000001.tar"
MakeShards = Callable[..., Path]


def test_dali_s_index_points_at_the_members(finished: Path) -> None:
    for shard in finished.glob("*.tar"):
        head, *lines = shard.with_suffix(".idx").read_text().splitlines()
        with tarfile.open(shard) as tar, open(shard, "rb") as file:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            assert head == f"v1.2 {len(lines)}"
            assert len(lines) == len({name.partition(".")[0] for name in members})
            for words in map(str.split, lines):
                for extension, offset, size, name in zip(*(iter(words),) * 4, strict=True):
                    file.seek(int(offset))
                    assert file.read(int(size)) == members.pop(name)
                    assert name.endswith(f".{extension}")
        assert members == {}


def test_checksums_are_those_of_the_unpacked_members(finished: Path, tmp_path: Path) -> None:
    with tarfile.open(finished / SHARD) as tar:
        tar.extractall(tmp_path, filter="data")
    lines = (finished / SHARD).with_suffix(".sha256").read_text().splitlines()
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert {name: digest for digest, name in map(str.split, lines)} == expected


def test_an_older_folder_is_whole_without_side_files(copied: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    for path in copied.iterdir():
        if SIDE_NAME.fullmatch(path.name) or path.name == CARD_NAME:
            path.unlink()
    assert verify_shards(copied) == quick_defects(copied) == []
    write_side_files(copied, read_manifest(copied))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


@pytest.mark.parametrize("name", ["train-000001.idx", "train-000001.sha256", "wids-test.json"])
def test_a_side_file_that_disagrees_is_a_defect(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes().replace(b"1", b"2", 1))
    (defect,) = verify_shards(copied)
    assert f"{name}: differs from what the shards hold: run `stylize index`" in defect


def test_an_edited_card_is_nobody_s_defect_and_stays(copied: Path) -> None:
    (copied / CARD_NAME).write_text("mine")
    assert verify_shards(copied) == []
    write_side_files(copied, read_manifest(copied))
    assert (copied / CARD_NAME).read_text() == "mine"


def test_names_from_strangers_stay_on_their_line(make_shard_folder: MakeShards) -> None:
    folder = make_shard_folder()
    manifest = read_manifest(folder)
    names = ["a`b|c\n---\nconfigs: []", "\x1b[31m", "日本"]
    manifest.spec["class_names"][:] = names
    write_side_files(folder, manifest)
    text = (folder / CARD_NAME).read_text()
    assert text.count("\n---\n") == 1
    assert "`a'b/c\\n---\\nconfigs: []`, `\\x1b[31m`, `日本`" in text


def test_hugging_face_reads_pairs_and_originals_whole(finished: Path, hf_datasets: Any) -> None:
    folder = str(finished)
    assert hf_datasets.get_dataset_config_names(folder) == ["pairs", "originals"]
    assert list(hf_datasets.load_dataset(folder)) == ["train"]
    for name, split, roles in (
        ("pairs", "train", ["content.jpg", "styled.jpg"]),
        ("originals", "test", ["content.jpg"]),
    ):
        (theirs,) = hf_datasets.load_dataset(folder, name).items()
        assert theirs[0] == split
        rows = list(theirs[1])
        ours = [sample for path in read_manifest(finished).paths(finished, split) for sample in read_shard(path)]
        assert [(row["__key__"], row["cls"]) for row in rows] == [(sample.key, sample.label) for sample in ours]
        assert all(sorted(key for key in row if key.endswith("jpg")) == roles for row in rows)
        assert [row["json"] for row in rows] == [sample.metadata for sample in ours]
        assert all(row[role].size == (32, 32) for row in rows for role in roles)


def test_a_card_has_the_validation_split_and_no_split_that_is_not_there(make_shard_folder: MakeShards) -> None:
    folder = make_shard_folder(train=0)
    write_side_files(folder, read_manifest(folder))
    _, head, _ = (folder / CARD_NAME).read_text().split("---\n", 2)
    (configuration,) = yaml.safe_load(head)["configs"]
    assert configuration["config_name"] == "originals"
    assert configuration["data_files"] == [{"split": "test", "path": "test-*.tar"}]
    assert not (folder / "wids-train.json").exists()


def test_wids_finds_every_sample(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wids = pytest.importorskip("wids")  # in webdataset before 1.0
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        dataset = wids.ShardListDataset(str(finished / f"wids-{split}.json"), transformations=[])
        ours = [sample for path in read_manifest(finished).paths(finished, split) for sample in read_shard(path)]
        assert len(dataset) == len(ours)
        for sample, found in zip(ours, (dataset[index] for index in range(len(dataset))), strict=True):
            assert (found["__key__"], found[".content.jpg"].read()) == (sample.key, sample.content)
        dataset.cache.clear()


@pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves its shards to the garbage collector
def test_webdataset_reads_the_shards_that_the_list_names(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    monkeypatch.setenv("WDS_SECURE", "1")
    document = json.loads((finished / "wids-train.json").read_text())
    assert (document["__kind__"], document["wids_version"]) == ("wids-shard-index-v1", 1)
    paths = [finished / shard["url"] for shard in document["shardlist"]]
    assert [path.stat().st_size for path in paths] == [shard["filesize"] for shard in document["shardlist"]]
    found = list(webdataset.WebDataset(list(map(str, paths)), shardshuffle=False))
    assert len(found) == sum(shard["nsamples"] for shard in document["shardlist"]) == 12
    assert all(sample["styled.jpg"] and sample["content.jpg"] for sample in found)


def test_a_finished_folder_moves_with_its_side_files(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    assert verify_shards(tmp_path / "moved") == []
