import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from stylize.shards.manifest import Flag, Manifest, ShardEntry, inspect_manifest, read_manifest, write_manifest

SPEC = {
    "class_names": ["cat", "dög"],
    "styles_per_image": 1,
    "alpha": 0.5,
    "styles": [{"name": "dots", "sha256": "dd"}],
    "size": 64,
    "codec": "jpg",
    "counts": {"train": 8, "test": 4},
}
SHARDS = (
    ShardEntry("train-000000.tar", "train", 5, 100, "aa"),
    ShardEntry("train-000001.tar", "train", 2, 50, "bb"),
    ShardEntry("test-000000.tar", "test", 3, 70, "cc"),
)
FLAGGED = (Flag("train", "00000003", "copy 0 is nearly constant"),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_manifest(tmp_path, Manifest(SPEC, SHARDS, 2, "ff", FLAGGED))
    return tmp_path


def test_round_trip(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest == Manifest(SPEC, SHARDS, 2, "ff", FLAGGED)
    assert manifest.class_names == ["cat", "dög"]
    assert (manifest.samples("train"), manifest.samples("test")) == (7, 3)
    assert manifest.paths(folder, "train") == [folder / "train-000000.tar", folder / "train-000001.tar"]


def test_text_is_canonical(folder: Path) -> None:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert text == json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert document["format_version"] == 1
    checksum = document.pop("checksum")
    rest = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert checksum == hashlib.sha256(rest.encode()).hexdigest()


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="not a finished shard folder"):
            read_manifest(folder)


def test_a_manifest_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(InputError, match=r"manifest\.json .*Is a directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\x00", "[" * 100_000, '{"format_version": 1}'])
def test_damaged_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is damaged"):
        read_manifest(tmp_path)


def rename(name: str, split: str = "train") -> Callable[[dict[str, Any]], None]:
    return lambda document: document["shards"][0].update(name=name, split=split)


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.pop("shards"),
        lambda document: document.pop("failures"),
        lambda document: document["spec"].pop("class_names"),
        lambda document: document["spec"].pop("styles_per_image"),
        lambda document: document["spec"].update(styles_per_image=10**12),
        lambda document: document["spec"].update(styles="dots"),
        lambda document: document["spec"].update(counts=[8, 4]),
        lambda document: document.update(spec=None),
        lambda document: document["shards"][0].pop("sha256"),
        lambda document: document["shards"][0].update(unknown=1),
        lambda document: document["shards"][0].update(samples=-1),
        lambda document: document["shards"][0].update(samples="8"),
        lambda document: document["shards"][0].update(bytes="many"),
        lambda document: document["shards"].append("train-000009.tar"),
        lambda document: document.update(flagged=[{"key": "1"}]),
        lambda document: document.update(flagged=3),
        lambda document: document.update(flagged=[{"split": "train", "key": 1, "reason": "is odd"}]),
        lambda document: document.update(failures=-1),
        lambda document: document.update(failures="2"),
        lambda document: document.update(failures_sha256=7),
        lambda document: document["spec"].update(class_names=["cat", "cat"]),
        lambda document: document["spec"].update(class_names=["cat", ""]),
        lambda document: document["spec"].update(class_names=["cat", 7]),
        lambda document: document["spec"].update(class_names="cat"),
        lambda document: document["spec"].update(class_names=[]),
        lambda document: document["spec"].update(counts={"train": -1, "test": 13}),
        lambda document: document["spec"].update(counts={"train": 8.0, "test": 4}),
        lambda document: document["spec"].update(counts={"train": True, "test": 11}),
        lambda document: document["spec"].update(counts=None),
        lambda document: document["spec"].update(size="64"),
        lambda document: document["spec"].update(size=0),
        lambda document: document["spec"].update(size=-64),
        lambda document: document["spec"].update(size=64.0),
        lambda document: document["spec"].update(size=10**30),
        lambda document: document["spec"].update(size=float("nan")),
        lambda document: document["spec"].update(alpha=float("inf")),
        lambda document: document["spec"].update(styles_per_image="1"),
        lambda document: document["spec"].update(styles_per_image=-1),
        lambda document: document["spec"].update(codec="pkl"),
        lambda document: document["spec"].update(styles=[{"sha256": "dd"}]),
        lambda document: document["shards"][0].update(samples=10**30),
        lambda document: document["shards"][0].update(samples=float("nan")),
        lambda document: document["shards"][0].update(sha256=None),
        rename("../train-000000.tar"),
        rename("/etc/passwd"),
        rename("train-000000.tar", "test"),
        rename("pipe:cat train-000000.tar"),
    ],
)
def test_damaged_fields_are_refused(folder: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    change_document(folder, damage)
    with pytest.raises(InputError, match="is damaged") as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "reversed class names": (lambda document: document["spec"]["class_names"].reverse(), "changed since"),
    "ghost class": (lambda document: document["spec"]["class_names"].append("ghost"), "changed since"),
    "other size": (lambda document: document["spec"].update(size=32), "changed since"),
    "unknown field": (lambda document: document.update(index="train.idx"), "changed since"),
    "no checksum": (lambda document: document.pop("checksum"), "changed since"),
    "other checksum": (lambda document: document.update(checksum=[]), "changed since"),
    "a shard twice": (
        lambda document: document["shards"].append(document["shards"][0]),
        "changed since it was written; train-000000.tar is listed 2 times; 17 samples and failures of 12 images; ",
    ),
    "no test shard": (lambda document: document["shards"].pop(), "9 samples and failures of 12 images"),
    "fewer images": (lambda document: document["spec"]["counts"].pop("test"), "3 samples of 0 images in test"),
}


def change_document(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(document)
    (folder / "manifest.json").write_text(
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_manifest_is_refused_and_named(folder: Path, name: str) -> None:
    change, message = CHANGES[name]
    change_document(folder, change)
    with pytest.raises(InputError, match="is not to be trusted") as caught:
        read_manifest(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert message.partition(";")[0] in "; ".join(inspect_manifest(folder)[1])


@pytest.mark.parametrize(
    ("shards", "failures", "message"),
    [
        ((*SHARDS, SHARDS[0]), 2, "train-000000.tar is listed 2 times"),
        (SHARDS[:2], 2, "9 samples and failures of 12 images"),
        (SHARDS, 1, "11 samples and failures of 12 images"),
        ((*SHARDS, ShardEntry("test-000001.tar", "test", 2, 70, "dd")), 0, "5 samples of 4 images in test"),
    ],
)
def test_counts_that_disagree_are_refused_also_with_a_right_checksum(
    tmp_path: Path, shards: tuple[ShardEntry, ...], failures: int, message: str
) -> None:
    write_manifest(tmp_path, Manifest(SPEC, shards, failures))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_fields_of_later_versions_are_covered_by_the_checksum_and_read_over(folder: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        document["index"] = {"train-000000.tar": "train-000000.idx"}
        document["spec"]["novel"] = 0.1
        del document["checksum"]
        rest = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        document["checksum"] = hashlib.sha256(rest.encode()).hexdigest()

    change_document(folder, add)
    assert read_manifest(folder).shards == SHARDS


def test_a_manifest_without_optional_fields_is_read(folder: Path) -> None:
    def remove(document: dict[str, Any]) -> None:
        for name in ("flagged", "failures_sha256", "checksum"):
            del document[name]
        rest = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        document["checksum"] = hashlib.sha256(rest.encode()).hexdigest()

    change_document(folder, remove)
    assert read_manifest(folder) == Manifest(SPEC, SHARDS, 2)


def test_another_version_is_named_even_where_its_fields_differ(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": 2, "other": []}')
    with pytest.raises(InputError, match=r"version 2.*version 1"):
        read_manifest(tmp_path)
