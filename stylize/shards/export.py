"""`stylize export` and `stylize unpack`: the pairs of shards as Parquet, MDS or class folders, byte for byte."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stylize.console import InputError, Report, silent
from stylize.files import TEMPORARY_SUFFIX, temporary_path, write_atomically
from stylize.shards import Sample, image_roles, read_shard, sample_members
from stylize.shards.card import CARD_NAME, read_facts, render_card
from stylize.shards.index import check_whole
from stylize.shards.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from stylize.shards.remote import ShardFiles, shard_files

ORIGINAL, STYLIZED = "original", "stylized"
# The manifest of the shards; no picture, and so ignored where the folder is read as a source.
RECORDS = {"folder": "unpacked-from.json", "parquet": "parquet-from.json", "mds": "mds-from.json"}
MAX_NAME = 200  # bytes, of 255 that file systems take


def export_shards(shards: str | Path, out: Path, form: str = "parquet", report: Report = silent) -> Manifest:
    """Write a folder of shards, or that behind a URL, into the folder `out` in another form and return its manifest.

    `parquet` is a file with one row group for every shard, in `out/SPLIT`, with a data card. `mds` is a folder a split
    for MosaicML Streaming. `folder` is a file for every picture: `out/original/SPLIT/CLASS/KEY.jpg` and
    `out/stylized/…`, with several copies `stylized0`, `stylized1` …. Each shard is compared with its SHA-256 first. A
    file, of `mds` a split, is there whole or not at all, and the same call goes on after an interruption.
    Raises `InputError` where the shards are damaged, `out` holds something else, or it cannot be written.
    """
    if form not in _FORMS:
        raise InputError(f"--to is {form!r}: choose one of {', '.join(_FORMS)}.")
    with shard_files(shards) as files:
        manifest = read_manifest(files.folder)
        _FORMS[form](files, manifest, out, report)
    return manifest


def _claim(out: Path, form: str, files: ShardFiles) -> None:
    """Note in a folder which shards it is of, and clear half-written files; refuse one with anything else in it."""
    record = out / RECORDS[form]
    manifest = (files.folder / MANIFEST_NAME).read_bytes()
    try:
        for leftover in [*out.rglob(f".*{TEMPORARY_SUFFIX}")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        claimed = record.read_bytes() if record.exists() else None
        taken = claimed != manifest if claimed else out.exists() and any(out.iterdir())
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}): give another --out.") from None
    if taken:
        raise InputError(f"{out} holds something else than these shards: give another --out, or remove it.")
    write_atomically(record, manifest)


def _samples(files: ShardFiles, shard: ShardEntry) -> Iterator[Sample]:
    with files.lend(shard) as path:
        check_whole(path, shard)
        yield from read_shard(path)


def _row(sample: Sample, codec: str, picture: Callable[[str, bytes], object]) -> dict[str, Any]:
    """Return a sample's columns: pictures by role, label, key and metadata."""
    *images, _, (_, metadata) = sample_members(sample, codec)
    row = {name.split(".")[1]: picture(name, payload) for name, payload in images}
    return {**row, "label": sample.label, "key": sample.key, "metadata": metadata.decode()}


def _to_parquet(files: ShardFiles, manifest: Manifest, out: Path, report: Report) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError("--to parquet needs a package: pip install 'stylized-pairing[parquet]'.") from None
    _claim(out, "parquet", files)
    codec = manifest.spec["codec"]
    for shard in manifest.shards:
        path = out / shard.split / Path(shard.name).with_suffix(".parquet")
        if not path.exists():
            samples = _samples(files, shard)
            rows = [_row(sample, codec, lambda name, data: {"bytes": data, "path": name}) for sample in samples]
            file = pyarrow.BufferOutputStream()
            table = pyarrow.Table.from_pylist(rows, _schema(manifest, shard.split))
            parquet.write_table(table, file, row_group_size=max(1, len(rows)), compression="none", use_dictionary=False)
            write_atomically(path, file.getvalue().to_pybytes())
        report(shard.samples)
    write_atomically(out / CARD_NAME, render_card(manifest, read_facts(files.folder), "parquet").encode())


def _schema(manifest: Manifest, split: str) -> Any:
    """Return the columns, and what Hugging Face `datasets` is told of them: which are pictures and classes."""
    import pyarrow

    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    roles = image_roles(manifest.copies(split))
    texts = {name: {"dtype": "string", "_type": "Value"} for name in ("key", "metadata")}
    label = {"names": manifest.class_names, "_type": "ClassLabel"}
    features = {**{role: {"_type": "Image"} for role in roles}, "label": label, **texts}
    kinds = {**dict.fromkeys(roles, picture), "label": pyarrow.int64(), **dict.fromkeys(texts, pyarrow.string())}
    return pyarrow.schema(kinds.items(), {"huggingface": json.dumps({"info": {"features": features}})})


def _to_mds(files: ShardFiles, manifest: Manifest, out: Path, report: Report) -> None:
    try:
        from streaming import MDSWriter
    except ImportError:
        raise InputError("--to mds needs a package: pip install 'stylized-pairing[mds]'.") from None
    _claim(out, "mds", files)
    for split in manifest.splits:
        if (out / split).exists():
            report(manifest.samples(split))
            continue
        roles = image_roles(manifest.copies(split))
        columns = {**dict.fromkeys(roles, "bytes"), "label": "int", "key": "str", "metadata": "str"}
        temporary = temporary_path(out / split)
        try:
            with MDSWriter(out=str(temporary), columns=columns, hashes=["sha256"]) as writer:
                for sample in (sample for shard in manifest.entries(split) for sample in _samples(files, shard)):
                    writer.write(_row(sample, manifest.spec["codec"], lambda _, data: data))
                    report(1)
            temporary.replace(out / split)
        except OSError as error:
            raise InputError(f"{out} cannot be written ({error.strerror or error}): make room.") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _to_folder(files: ShardFiles, manifest: Manifest, out: Path, report: Report) -> None:
    folders = [class_folder(name) for name in manifest.class_names]
    _claim(out, "folder", files)
    for shard in manifest.shards:
        for sample in _samples(files, shard):
            if sample.label >= len(folders):
                raise InputError(f"{shard.name}: sample {sample.key} has label {sample.label}: run `stylize verify`.")
            place = Path(shard.split, folders[sample.label], f"{sample.key}.{manifest.spec['codec']}")
            for role, payload in zip(image_roles(len(sample.styled)), sample.images, strict=True):
                path = out / role.replace("content", ORIGINAL).replace("styled", STYLIZED) / place
                try:
                    there = path.is_file() and path.read_bytes() == payload
                except OSError as error:
                    raise InputError(f"{path} cannot be read ({error.strerror}): give another --out.") from None
                if not there:
                    write_atomically(path, payload, flush=False)
            report(1)


def class_folder(name: str) -> str:
    """Return a class's folder: its name, with letters as %XX where it could lead elsewhere, hide or not print.

    Raises `InputError` for a name too long for a file system.
    """
    plain = name.isprintable() and not set(name) & set('%/\\:*?"<>|') and name == name.strip(" .")
    folder = name if plain else quote(name, safe=" ", errors="surrogatepass")
    if folder[0] in ". ":
        folder = f"%{ord(folder[0]):02X}{folder[1:]}"
    if folder[-1] in ". ":
        folder = f"{folder[:-1]}%{ord(folder[-1]):02X}"
    if len(folder.encode()) > MAX_NAME:
        raise InputError(f"The class {name[:40]!r}… has a name of over {MAX_NAME} bytes: no folder can have it.")
    return folder


_FORMS = {"parquet": _to_parquet, "mds": _to_mds, "folder": _to_folder}
