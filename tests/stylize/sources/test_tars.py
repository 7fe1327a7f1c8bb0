"""Existing WebDatasets as sources, honest ones of several makers and hostile ones."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.networks.stylizer import Pixels
from stylize.shards.manifest import read_manifest
from stylize.shards.shard import read_shard
from stylize.sources.source import open_source

MakeShards = Callable[..., Path]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


@pytest.fixture
def picture(noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> bytes:
    return encode(noise(0))


@pytest.mark.parametrize("manifest", [True, False])
def test_our_own_shards_give_their_originals(make_shard_folder: MakeShards, manifest: bool) -> None:
    folder = make_shard_folder()
    ours = {
        split: [s for p in read_manifest(folder).paths(folder, split) for s in read_shard(p)]
        for split in ("train", "test")
    }
    if not manifest:
        (folder / "manifest.json").unlink()
    source = open_source(str(folder))
    assert source.splits == ("train", "test")
    assert source.class_names == (("class0", "class1", "class2") if manifest else ("0", "1", "2"))
    for split, samples in ours.items():
        found = [(source.read(split, i), source.label(split, i)) for i in range(source.count(split))]
        assert found == [(sample.content, sample.label) for sample in samples]
    assert source.path("train", 0) == f"train-000000.tar/{ours['train'][0].key}.content.png"
    assert source.fingerprint() == open_source(str(folder)).fingerprint()


def test_labels_from_text_and_json(tmp_path: Path, picture: bytes) -> None:
    members = {
        f"a/{n:03d}.{kind}": data
        for n in range(6)
        for kind, data in (("JPEG", picture), ("json", json.dumps({"label": ["cat", "dog"][n % 2]}).encode()))
    }
    write_tar(tmp_path / "set" / "pets-00.tar", members)
    source = open_source(f"{tmp_path}/set/pets-{{00..00}}.tar", test_fraction=0.34)
    assert source.class_names == ("cat", "dog")
    assert (source.count("train"), source.count("test")) == (4, 2)
    assert source.notes == ("2 of 6 images are held out for testing",)
    again = open_source(f"{tmp_path}/set/pets-*.tar", test_fraction=0)
    assert [again.class_names[again.label("train", i)] for i in range(6)] == ["cat", "dog"] * 3


def hostile(kind: bytes, name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.SYMTYPE, "0.jpg"), (tarfile.LNKTYPE, "0.jpg"), (tarfile.CHRTYPE, "0.jpg"), (tarfile.FIFOTYPE, "0.jpg"),
        (tarfile.REGTYPE, "/tmp/0.jpg"), (tarfile.REGTYPE, "../0.jpg"), (tarfile.REGTYPE, "a\x1b.jpg"),
        (tarfile.DIRTYPE, "../up"),
    ],
)  # fmt: skip
def test_hostile_members_are_refused(tmp_path: Path, kind: bytes, name: str) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        tar.addfile(hostile(kind, name))
    with pytest.raises(InputError, match=r"train-0.tar holds the foreign member .*: do not use this tar"):
        open_source(str(tmp_path))


def test_what_is_no_labelled_data_set_is_refused(tmp_path: Path, picture: bytes) -> None:
    cases = {
        "sample 0 has no label": {"0.png": picture},
        "sample 0 has no picture": {"0.cls": b"0", "0.pkl": b"x"},
        "holds the key '0' twice": {"0.png": picture, "0.cls": b"0", "1.png": picture, "1.cls": b"1", "0.jpg": picture},
        "sample 1 has no label: it needs": {"1.png": picture, "1.json": b'{"label": [1]}'},
        "no sample with a picture": {},
        "a.tar cannot be read": {"1.png": picture, "1.json": b"[" * 100_000},
    }
    for number, (message, members) in enumerate(cases.items()):
        with pytest.raises(InputError, match=message):
            open_source(str(write_tar(tmp_path / str(number) / "a.tar", members)))
    (tmp_path / "cut.tar").write_bytes(b"garbage" * 100)
    with pytest.raises(InputError, match=r"cut.tar cannot be read .*fetch it again, uncompressed"):
        open_source(str(tmp_path / "cut.tar"))
    with pytest.raises(InputError, match=r"There is no tar .*absent-0.tar"):
        open_source(str(tmp_path / "absent-{0..3}.tar"))


def test_the_first_hundred_synsets_or_those_of_a_list(tmp_path: Path, picture: bytes) -> None:
    synsets = [f"n{number:08d}" for number in range(0, 1010, 10)]
    for name in reversed(synsets):
        for split in ("train", "val"):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            (tmp_path / "tree" / split / name / "a.png").write_bytes(picture)
    source = open_source(f"imagenet100:{tmp_path}/tree")
    assert source.class_names == tuple(synsets[:100])
    assert (source.count("train"), source.count("test")) == (100, 100)
    (tmp_path / "list.txt").write_text(f"{synsets[100]} tench\n\n{synsets[3]}\n")
    source = open_source(f"imagenet100:{tmp_path}/tree:{tmp_path}/list.txt")
    assert source.class_names == (synsets[3], synsets[100])
    assert {source.path("test", i) for i in range(2)} == {f"val/{synsets[n]}/a.png" for n in (3, 100)}
    (tmp_path / "list.txt").write_text("n99999999\n")
    with pytest.raises(InputError, match=r"list.txt names 'n99999999', a class that .* does not have"):
        open_source(f"imagenet100:{tmp_path}/tree:{tmp_path}/list.txt")
    with pytest.raises(InputError, match="has 2 classes, not 100 or more"):
        open_source(f"imagenet100:{small_tree(tmp_path / 'small', picture)}")


def small_tree(folder: Path, picture: bytes) -> Path:
    for name in ("n1", "n2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(picture)
    return folder


def test_a_flat_folder_is_one_class(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(10):
        (tmp_path / "flat" / f"{number}.png").write_bytes(picture)
    (tmp_path / "flat" / "notes.txt").write_text("none")
    source = open_source(str(tmp_path / "flat"))
    assert source.class_names == ("flat",)
    assert (source.count("train"), source.count("test"), source.label("train", 0)) == (9, 1, 0)
