"""Shards in the forms of other libraries, read by these: the same bytes."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from stylize.shards import Sample, read_shard
from stylize.shards.export import export_shards
from stylize.shards.manifest import read_manifest

MakeShards = Callable[..., Path]
Row = dict[str, Any]


def samples(folder: Path, split: str) -> Iterator[Sample]:
    return (sample for path in read_manifest(folder).paths(folder, split) for sample in read_shard(path))


def expected(folder: Path, split: str, copies: int) -> list[Row]:
    """Return the columns of a split's samples, pictures as bytes."""
    roles = ["styled"] if copies == 1 else [f"styled{k}" for k in range(copies)]
    return [
        {
            "content": sample.content,
            **dict(zip(roles, sample.styled, strict=False)),
            "label": sample.label,
            "key": sample.key,
            "metadata": json.dumps(sample.metadata, sort_keys=True),
        }
        for sample in samples(folder, split)
    ]


@pytest.mark.parametrize("copies", [1, 2])
def test_hugging_face_reads_the_same_pictures_from_parquet(
    make_shard_folder: MakeShards, tmp_path: Path, hf_datasets: Any, copies: int
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder, out = make_shard_folder(styles_per_image=copies), tmp_path / "out"
    done: list[int] = []
    export_shards(folder, out, "parquet", done.append)
    assert sum(done) == 36
    for split, name in (("train", "pairs"), ("test", "originals")):
        loaded = hf_datasets.load_dataset(str(out), name)[split]
        assert loaded.features["label"].names == ["class0", "class1", "class2"]
        pictures = [column for column, kind in loaded.features.items() if isinstance(kind, hf_datasets.Image)]
        assert pictures == [
            column for column in expected(folder, split, copies)[0] if column[:6] in ("conten", "styled")
        ]
        for column in pictures:
            loaded = loaded.cast_column(column, hf_datasets.Image(decode=False))
        rows = [{**row, **{column: row[column]["bytes"] for column in pictures}} for row in loaded]
        assert rows == expected(folder, split, copies)
        shards = read_manifest(folder).entries(split)
        groups = [parquet.ParquetFile(path).metadata for path in sorted((out / split).iterdir())]
        assert [(group.num_row_groups, group.num_rows) for group in groups] == [(1, shard.samples) for shard in shards]


@pytest.mark.filterwarnings("ignore")  # its own, of files that it leaves open
def test_mosaic_streaming_reads_the_same_bytes(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    folder, out = make_shard_folder(styles_per_image=2), tmp_path / "out"
    export_shards(folder, out, "mds")
    for split in ("train", "test"):
        found = streaming.LocalDataset(str(out / split))
        assert [dict(found[index]) for index in range(len(found))] == expected(folder, split, 2)


def test_an_interrupted_export_goes_on(make_shard_folder: MakeShards, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder, out = make_shard_folder(), tmp_path / "out"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_shards(folder, out, "parquet", stop)
    first = out / "train" / "train-000000.parquet"
    assert sorted(out.rglob("*.*")) == [out / "parquet-from.json", first]
    (out / "train" / ".train-000001.parquet.1-00000000.part").write_bytes(b"half")
    (folder / "train-000000.tar").write_bytes(b"is not read again")
    export_shards(folder, out, "parquet")
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert names == {
        *(Path(shard.name).with_suffix(".parquet").name for shard in read_manifest(folder).shards),
        *("parquet-from.json", "README.md"),
    }


def test_mistakes_leave_nothing(make_shard_folder: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = make_shard_folder(), tmp_path / "out"
    with pytest.raises(InputError, match="parquet, mds, folder"):
        export_shards(folder, out, "csv")
    for module, form in (("pyarrow", "parquet"), ("streaming", "mds")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"stylized-pairing\[{form}\]"):
            export_shards(folder, out, form)
    monkeypatch.undo()
    assert not out.exists()
    export_shards(folder, out, "folder")
    with pytest.raises(InputError, match="something else"):
        export_shards(folder, out, "parquet")
    (folder / "train-000001.tar").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"train-000001\.tar"):
        export_shards(folder, tmp_path / "damaged", "parquet")
