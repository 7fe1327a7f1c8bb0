import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stylize.errors import InputError
from stylize.shards.manifest import Flag, Manifest, ShardEntry, read_manifest, write_manifest

SPEC = {
    "class_names": ["cat", "dög"],
    "styles_per_image": 1,
    "alpha": 0.5,
    "styles": [{"name": "dots", "sha256": "dd"}],
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
    with pytest.raises(InputError, match=r"manifest\.json cannot be read \(Is a directory\)"):
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
        rename("../train-000000.tar"),
        rename("/etc/passwd"),
        rename("train-000000.tar", "test"),
        rename("pipe:cat train-000000.tar"),
    ],
)
def test_damaged_fields_are_refused(folder: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    damage(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="is damaged"):
        read_manifest(folder)


def test_another_version_is_named_even_where_its_fields_differ(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": 2, "other": []}')
    with pytest.raises(InputError, match="has format version 2; this program reads version 1"):
        read_manifest(tmp_path)
