"""Existing WebDatasets as sources, honest ones of several makers and hostile ones."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.networks.stylizer import Pixels
from stylize.shards import read_shard
from stylize.shards.manifest import read_manifest
from stylize.sources.opening import open_source

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
        (tarfile.DIRTYPE, "../up"), (tarfile.SYMTYPE, "._0.jpg"), (tarfile.REGTYPE, "../.hidden"),
    ],
)  # fmt: skip
def test_hostile_members_are_refused(tmp_path: Path, kind: bytes, name: str) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        tar.addfile(hostile(kind, name))
    with pytest.raises(InputError, match=r"train-0\.tar .*foreign member"):
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
    with pytest.raises(InputError, match=r"cut\.tar .*uncompressed"):
        open_source(str(tmp_path / "cut.tar"))
    with pytest.raises(InputError, match=r"There is no tar .*absent-0.tar"):
        open_source(str(tmp_path / "absent-{0..3}.tar"))


def samples(picture: bytes, start: int, count: int, label: object = None) -> dict[str, bytes]:
    """Return members of so many samples with labels 0 and 1 by turns, or all with this one."""
    return {
        f"{n:05d}.{kind}": data
        for n in range(start, start + count)
        for kind, data in (("png", picture), ("cls", str(n % 2 if label is None else label).encode()))
    }


@pytest.mark.parametrize(
    ("train", "other", "data"),
    [
        ("one/train/a-000.tar", "one/val/b-000.tar", "one/{train,val}/*.tar"),
        ("two/train/0.tar", "two/test/0.tar", "two/{train,test}/*.tar"),
        ("two/train/0.tar", "two/test/0.tar", "two/*/*.tar"),
        ("two/Training/0.tar", "two/valid/0.tar", "two"),
        ("three/wds/train/0.tar", "three/wds/test/0.tar", "three"),
        ("four/pets-train-0.tar", "four/pets-val-0.tar", "four"),
    ],
)
def test_folders_or_names_of_tars_tell_the_split(
    tmp_path: Path, picture: bytes, train: str, other: str, data: str
) -> None:
    write_tar(tmp_path / train, samples(picture, 0, 10))
    write_tar(tmp_path / other, samples(picture, 10, 6))
    source = open_source(f"{tmp_path}/{data}")
    assert {split: source.count(split) for split in source.splits} == {"train": 10, "test": 6}
    assert len({source.path(split, i) for split in source.splits for i in range(source.count(split))}) == 16
    assert source.read("test", 5) == picture


def test_folders_in_a_tar_tell_the_split_where_all_do(tmp_path: Path, picture: bytes) -> None:
    members = {f"./{('train', 'train', 'val')[int(name[:5]) % 3]}/{name}": data
               for name, data in samples(picture, 0, 12).items()}  # fmt: skip
    source = open_source(str(write_tar(tmp_path / "all.tar", dict(sorted(members.items())))))
    assert {split: source.count(split) for split in source.splits} == {"train": 8, "test": 4}
    members |= {f"more/{name}": data for name, data in samples(picture, 20, 2).items()}
    source = open_source(str(write_tar(tmp_path / "mixed.tar", dict(sorted(members.items())))))
    assert source.notes == ("1 of 14 images are held out for testing",)


def test_a_folder_with_a_test_split_alone_has_nothing_to_train_on(tmp_path: Path, picture: bytes) -> None:
    write_tar(tmp_path / "set" / "test" / "0.tar", samples(picture, 0, 4))
    with pytest.raises(InputError, match="no training split"):
        open_source(str(tmp_path / "set"))
    assert open_source(str(tmp_path / "set" / "test")).splits == ("train", "test")
    (tmp_path / "set" / "test" / "0.tar").rename(tmp_path / "pets-test-0.tar")
    with pytest.raises(InputError, match="test but no training split"):
        open_source(f"{tmp_path}/*.tar")


def test_tars_further_down_are_told_how_to_name(tmp_path: Path, picture: bytes) -> None:
    for split, start in (("train", 0), ("test", 10)):
        write_tar(tmp_path / split / "part" / "0.tar", samples(picture, start, 6))
    with pytest.raises(InputError, match=r"\*\*/\*\.tar"):
        open_source(str(tmp_path))
    source = open_source(f"{tmp_path}/**/*.tar")
    assert {split: source.count(split) for split in source.splits} == {"train": 6, "test": 6}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("train/0.tar", "more/0.tar"), "more"),
        (("train/0.tar", "Training/0.tar"), "both name the train split"),
        (("test/0.tar", "val/0.tar"), "no training split"),
        (("train/0.tar", "test/0.tar", "more/1.tar"), "more"),
        (("train/0.tar", "test/train-0.tar"), "two splits"),
        (("train/0.tar", "test/0.tar", "test/1.tar"), "classes cow"),
    ],
)
def test_folders_that_could_mean_two_things_are_refused(
    tmp_path: Path, picture: bytes, names: tuple[str, ...], reason: str
) -> None:
    for name in names:
        write_tar(tmp_path / name, samples(picture, 0, 2, "cow" if name == "test/1.tar" else "cat"))
    for data in (f"{tmp_path}/*/*.tar", str(tmp_path)):
        with pytest.raises(InputError, match=reason):
            open_source(data)


def test_tars_beside_class_folders_are_no_data_set_of_tars(tmp_path: Path, picture: bytes) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "train" / "backup.tar").write_bytes(b"old")
    (tmp_path / "._backup.tar").write_bytes(b"litter")
    source = open_source(str(tmp_path))
    assert (source.class_names, dict(source.ignored)) == (("a", "b"), {".tar": 1, "hidden": 1})


@pytest.mark.parametrize("prefix", ["./", "", "pets/"])
def test_what_macos_leaves_in_tars_and_beside_them_is_ignored_and_counted(
    tmp_path: Path, picture: bytes, prefix: str
) -> None:
    members = {
        f"{prefix}.DS_Store": b"x",
        f"{prefix}Icon\r": b"",
        f"{prefix}README.md": b"x",
        f"__MACOSX/{prefix}00000.png": b"x",
    }
    for name, payload in samples(picture, 0, 10).items():
        members |= {f"{prefix}._{name}": b"\0\5\x16\7", f"{prefix}{name}": payload}
    write_tar(tmp_path / "pets-000.tar", members)
    (tmp_path / "._pets-000.tar").write_bytes(b"\0\5\x16\7")
    source = open_source(str(tmp_path))
    assert (source.count("train"), source.count("test")) == (9, 1)
    assert dict(source.ignored) == {"hidden": 24, ".md": 1}


def test_the_name_is_the_one_given(tmp_path: Path, picture: bytes) -> None:
    write_tar(tmp_path / "cache" / "89384232b7" / "a.tar", samples(picture, 0, 4))
    (tmp_path / "pets").symlink_to(tmp_path / "cache" / "89384232b7")
    assert open_source(str(tmp_path / "pets")).name == open_source(f"{tmp_path}/pets/*.tar").name == "pets"
