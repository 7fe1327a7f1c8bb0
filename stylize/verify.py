"""`stylize verify`: read everything again and name every defect."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stylize.errors import InputError
from stylize.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from stylize.pictures import PictureError, decode_picture
from stylize.run import FAILURES_NAME
from stylize.shards import Sample, file_sha256, read_shard


def verify_shards(directory: Path) -> list[str]:
    """Check a folder against its manifest (files, hashes, pairs, labels, pictures) and return its defects, best none.

    Raises `InputError` where there is no manifest to check against.
    """
    manifest = read_manifest(directory)
    defects = list(_folder_defects(directory, manifest))
    keys: Counter[tuple[str, str]] = Counter()
    for shard in manifest.shards:
        defects += _shard_defects(directory, manifest, shard, keys)
    repeated = [f"{split} {key}" for (split, key), count in keys.items() if count > 1]
    return [*defects, *(f"sample {name} stands in more than one shard" for name in repeated)]


def _folder_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    named = {shard.name for shard in manifest.shards}
    present = {path.name for path in directory.iterdir()}
    for name in sorted(present - named - {MANIFEST_NAME, FAILURES_NAME, ".gitignore"}):
        yield f"{name}: not named in the manifest"
    failures = directory / FAILURES_NAME
    recorded = len(failures.read_bytes().splitlines()) if failures.is_file() else 0
    if recorded != manifest.failures:
        yield f"{FAILURES_NAME}: {recorded} failures recorded, the manifest counts {manifest.failures}"


def _shard_defects(
    directory: Path, manifest: Manifest, shard: ShardEntry, keys: Counter[tuple[str, str]]
) -> Iterator[str]:
    path = directory / shard.name
    if not path.is_file():
        yield f"{shard.name}: missing"
        return
    if path.stat().st_size != shard.bytes:
        yield f"{shard.name}: {path.stat().st_size} bytes, the manifest says {shard.bytes}"
    if file_sha256(path) != shard.sha256:
        yield f"{shard.name}: SHA-256 differs from the manifest's"
    count = 0
    try:
        for sample in read_shard(path):
            count += 1
            keys[shard.split, sample.key] += 1
            for defect in _sample_defects(manifest, shard.split, sample):
                yield f"{shard.name}: sample {sample.key}: {defect}"
    except InputError as error:
        yield f"{shard.name}: {error}"
    if count != shard.samples:
        yield f"{shard.name}: {count} readable samples, the manifest says {shard.samples}"


def _sample_defects(manifest: Manifest, split: str, sample: Sample) -> Iterator[str]:
    copies = manifest.styles_per_image if split == "train" else 0
    if len(sample.styled) != copies:
        yield f"{len(sample.styled)} stylized copies instead of {copies}"
    if sample.label >= len(manifest.class_names):
        yield f"label {sample.label}, but there are {len(manifest.class_names)} classes"
    if split == "train":
        yield from _style_defects(manifest, sample)
    sizes = set()
    for name, data in [("content", sample.content), *((f"copy {k}", data) for k, data in enumerate(sample.styled))]:
        try:
            sizes.add(decode_picture(data).size)
        except PictureError as error:
            yield f"{name} {error}"
    if len(sizes) > 1:
        yield f"content and copies differ in size: {sorted(sizes)}"
    side = manifest.spec.get("size")
    if side is not None and sizes - {(side, side)}:
        yield f"pictures of {sorted(sizes)} pixels, the manifest says {side} × {side}"


def _style_defects(manifest: Manifest, sample: Sample) -> Iterator[str]:
    alpha, styles = sample.metadata.get("alpha"), sample.metadata.get("styles")
    if alpha != manifest.spec.get("alpha"):
        yield f"alpha {alpha}, the manifest says {manifest.spec.get('alpha')}"
    known = {style["name"] for style in manifest.spec.get("styles", [])}
    if not isinstance(styles, list) or set(styles) - known:
        yield f"the styles {styles}, not all of which the manifest names"
