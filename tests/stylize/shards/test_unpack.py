"""Shards as files in class folders: every picture, byte by byte, whatever the classes are called."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.shards import read_shard
from stylize.shards.export import class_folder, export_shards
from stylize.shards.manifest import read_manifest, write_manifest

MakeShards = Callable[..., Path]
HOSTILE = (
    "../up",
    "/absolute",
    "..",
    ".",
    ".hidden",
    "a/b",
    "a\\b",
    "nul\0",
    "esc\x1b[31m",
    "\ud800",
    "100%",
    "end.",
    " x",
)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copies", [1, 2])
def test_every_picture_becomes_a_file(make_shard_folder: MakeShards, tmp_path: Path, copies: int) -> None:
    folder = make_shard_folder(styles_per_image=copies)
    manifest = read_manifest(folder)
    expected = {"unpacked-from.json": (folder / "manifest.json").read_bytes()}
    kinds = ["stylized"] if copies == 1 else ["stylized0", "stylized1"]
    for split in ("train", "test"):
        for sample in (sample for path in manifest.paths(folder, split) for sample in read_shard(path)):
            place = f"{split}/class{sample.label}/{sample.key}.png"
            expected[f"original/{place}"] = sample.content
            expected |= {f"{kind}/{place}": copy for kind, copy in zip(kinds, sample.styled, strict=False)}
    done: list[int] = []
    export_shards(folder, tmp_path / "out", "folder", done.append)
    assert files(tmp_path / "out") == expected
    assert sum(done) == 36


def test_an_interrupted_call_goes_on_and_mends(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    folder, out = make_shard_folder(), tmp_path / "out"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_shards(folder, out, "folder", stop)
    assert len(files(out)) == 3
    (first,) = out.glob("stylized/*/*/*")
    first.write_bytes(first.read_bytes()[:-1])
    (first.parent / ".00000001.png.1-0.part").write_bytes(b"half")
    export_shards(folder, out, "folder")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(times) == 24 * 2 + 12
    export_shards(folder, out, "folder")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    export_shards(folder, tmp_path / "fresh", "folder")
    assert files(out) == files(tmp_path / "fresh")


def test_hostile_class_names_lead_nowhere(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    folder = make_shard_folder(classes=len(HOSTILE), train=2 * len(HOSTILE))
    manifest = read_manifest(folder)
    names = [name for name in HOSTILE if name != "\ud800"]
    manifest.spec["class_names"][:] = [*names, "x"]
    write_manifest(folder, manifest)
    before = files(tmp_path / "shards")
    export_shards(folder, tmp_path / "out", "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "out"}
    assert files(tmp_path / "shards") == before
    assert len(list((tmp_path / "out/original/train").iterdir())) == len(HOSTILE)
    assert len(files(tmp_path / "out")) == 1 + 2 * 2 * len(HOSTILE) + 12


def test_different_names_have_different_folders() -> None:
    names = {*HOSTILE, "cat", "日本", "a%2Fb", "%2E", "%2E.", "a b", "é" * 100}
    assert len({class_folder(name) for name in names}) == len(names)
    assert [class_folder(name) for name in ("cat", "日本", "a b", "..")] == ["cat", "日本", "a b", "%2E%2E"]
    assert not any(set(class_folder(name)) & set("/\\\0") or class_folder(name)[0] == "." for name in names)
    with pytest.raises(InputError, match="over 200 bytes"):
        class_folder("é" * 101)


def test_what_is_damaged_or_taken_is_refused(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    folder, out = make_shard_folder(), tmp_path / "out"
    export_shards(folder, out, "folder")
    other = make_shard_folder("other", seed=1)
    for taken, shards in ((out, other), (tmp_path, folder)):
        with pytest.raises(InputError, match="holds something else"):
            export_shards(shards, taken, "folder")
    damaged = bytearray((other / "train-000001.tar").read_bytes())
    damaged[700] ^= 1
    (other / "train-000001.tar").write_bytes(damaged)
    with pytest.raises(InputError, match=r"train-000001\.tar .*differs"):
        export_shards(other, tmp_path / "second", "folder")
    shutil.rmtree(out)
    out.write_text("a file")
    with pytest.raises(InputError, match="cannot be read"):
        export_shards(folder, out, "folder")
