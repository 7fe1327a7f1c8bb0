"""`stylize verify`: read everything again and name every defect."""

from collections.abc import Iterator
from pathlib import Path

from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, inspect_manifest
from stylize.shards.side_files import index_defects, list_defects, shard_side_defects, side_names
from stylize.shards.verify_shard import Places, shard_defects
from stylize.wording import counted


def verify_shards(directory: Path) -> list[str]:
    """Check a folder against its manifest (files, hashes, pairs, labels, pictures) and return its defects, best none.

    Every defect of every shard is named, also beyond damaged places.
    Raises `InputError` where there is no manifest to check against.
    """
    manifest, wrong = inspect_manifest(directory)
    defects = [*(f"{MANIFEST_NAME}: {defect}" for defect in wrong), *_folder_defects(directory, manifest)]
    places: Places = {}
    for shard in manifest.shards:
        path = directory / shard.name
        if not path.is_file():
            defects.append(f"{shard.name}: missing")
            continue
        try:
            found = shard_defects(path, manifest, shard, places)
            defects += [f"{shard.name}: {defect}" for defect in found]
            defects += () if found else shard_side_defects(path)
        except (InputError, OSError) as error:
            defects.append(f"{shard.name}: cannot be read ({error})")
    return defects or list(index_defects(directory, manifest))


def quick_defects(directory: Path) -> list[str]:
    """Return what can be told of a folder without reading its shards: its manifest, its files and their sizes.

    Raises `InputError` where there is no manifest to check against.
    """
    manifest, wrong = inspect_manifest(directory)
    defects = [*(f"{MANIFEST_NAME}: {defect}" for defect in wrong), *_folder_defects(directory, manifest)]
    for shard in manifest.shards:
        path = directory / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            defects.append(f"{shard.name}: missing")
        elif size != shard.bytes:
            defects.append(f"{shard.name}: {counted(size, 'byte')}, the manifest says {shard.bytes}")
    return defects


def _folder_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    named = {shard.name for shard in manifest.shards}
    present = {path.name for path in directory.iterdir()}
    for name in sorted(present - named - side_names(manifest) - {MANIFEST_NAME, FAILURES_NAME, ".gitignore"}):
        yield f"{name}: not named in the manifest"
    failures = directory / FAILURES_NAME
    if (file_sha256(failures) if failures.is_file() else None) != manifest.failures_sha256:
        yield f"{FAILURES_NAME}: differs from what the manifest records"
    yield from list_defects(directory, manifest)
