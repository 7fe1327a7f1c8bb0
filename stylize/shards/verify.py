"""`stylize verify`: read everything again and name every defect; warn of what is whole and still looks wrong."""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from math import comb
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stylize.console import InputError, counted
from stylize.files import file_sha256
from stylize.shards import LABEL, MEMBER_NAME, Span, image_roles, open_shard, parse_metadata, read_span
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.index import SplitIndex, differing, index_defects, list_shards, load_index, side_defects, side_names
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, ShardEntry, inspect_manifest
from stylize.shards.remote import shard_files

BLOCK = tarfile.BLOCKSIZE
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Member(NamedTuple):
    """A member as its header describes it; `kind` is None for a regular file, else what it is instead."""

    name: str
    kind: str | None
    span: Span


def scan_tar(file: BinaryIO, defects: list[str]) -> Iterator[Member]:
    """Yield every member of an uncompressed tar whose payload is there; what else it holds is appended to `defects`.

    After a defect the scan goes on at the next block that is a valid header. Only headers are read.
    """
    end = file.seek(0, os.SEEK_END)
    offset = 0
    while offset + BLOCK <= end:
        header = _header(file, offset)
        span = Span(offset + BLOCK, header.size if header else 0)
        if header and 0 <= span.size <= end - span.offset:
            kind = None if header.type in tarfile.REGULAR_TYPES[:2] else _KINDS.get(header.type, "a special member")
            yield Member(header.name, kind, span)
            offset = span.offset + -(-span.size // BLOCK) * BLOCK
            continue
        starts = range(span.offset, end - BLOCK + 1, BLOCK)
        following = next((start for start in starts if _header(file, start)), end)
        file.seek(offset)
        if header is None and following == end and file.read(BLOCK) == bytes(BLOCK):
            return  # the mark that ends a tar
        if header:
            defects.append(f"member {header.name!r} claims {counted(span.size, 'byte')}, {end - span.offset} left")
        else:
            defects.append(f"no valid header at byte {offset}")
        offset = following
    defects.append("ends without the mark that ends a tar")


def _header(file: BinaryIO, offset: int) -> tarfile.TarInfo | None:
    file.seek(offset)
    try:
        return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


_SHA256 = re.compile(r"[0-9a-f]{64}")
Places = dict[tuple[str, str], str]


def shard_defects(path: Path, manifest: Manifest, shard: ShardEntry, places: Places) -> list[str]:
    """Return a shard file's defects; `places` holds the shard of every (split, key) met so far, and is added to.

    Raises `InputError` or `OSError` where the file cannot be read.
    """
    defects = []
    if (size := path.stat().st_size) != shard.bytes:
        defects.append(f"{counted(size, 'byte')}, the manifest says {shard.bytes}")
    if file_sha256(path) != shard.sha256:
        defects.append("SHA-256 differs from the manifest's")
    samples = 0
    with open_shard(path) as file:
        for members in _samples(scan_tar(file, defects), defects):
            samples += 1
            key = _split_name(members[0])[0]
            if (shard.split, key) in places:
                defects.append(f"sample {key}: stands in {places[shard.split, key]} already")
            places[shard.split, key] = shard.name
            defects += [f"sample {key}: {defect}" for defect in _sample_defects(manifest, shard.split, members, file)]
    if samples != shard.samples:
        defects.append(f"{counted(samples, 'sample')}, the manifest says {shard.samples}")
    return defects


def _split_name(member: Member) -> tuple[str, str]:
    """Return (key, rest) of a member's name: `00001234` and `content.jpg`."""
    key, _, rest = member.name.partition(".")
    return key, rest


def _samples(members: Iterable[Member], defects: list[str]) -> Iterator[list[Member]]:
    """Yield runs of members of one key (a second `content` begins a new one); foreign members are defects."""
    sample: list[Member] = []
    for member in members:
        if member.kind or not MEMBER_NAME.fullmatch(member.name):
            defects.append(f"foreign member {member.name!r}" + (f", {member.kind}" if member.kind else ""))
            continue
        key, rest = _split_name(member)
        if sample and (key != _split_name(sample[0])[0] or rest.startswith("content")):
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _sample_defects(manifest: Manifest, split: str, members: list[Member], file: BufferedReader) -> Iterator[str]:
    codec = manifest.spec.get("codec")
    expected = [*(f"{role}.{codec}" for role in image_roles(manifest.copies(split))), "cls", "json"]
    found = [_split_name(member)[1] for member in members]
    if found != expected:
        yield f"has the members {', '.join(found)} instead of {', '.join(expected)}"
    parts = {name: read_span(file, member.span) for name, member in zip(found, members, strict=True)}
    label, classes = parts.get("cls", b"0"), len(manifest.class_names)
    if not LABEL.fullmatch(label):
        yield f"label {label[:40]!r}, which is not a number"
    elif int(label) >= classes:
        yield f"label {int(label)} of {counted(classes, 'class', 'classes')}"
    if "json" in parts:
        yield from _metadata_defects(parts["json"], manifest, split)
    yield from _picture_defects(parts, manifest.spec.get("size"))


def _metadata_defects(payload: bytes, manifest: Manifest, split: str) -> Iterator[str]:
    try:
        metadata = parse_metadata(payload)
    except ValueError as error:
        yield f"metadata {error}"
        return
    if not isinstance(metadata.get("source"), str) or not _SHA256.fullmatch(str(metadata.get("source_sha256"))):
        yield "metadata do not name the source and its SHA-256"
    if split != "train":
        return
    alpha = manifest.spec.get("alpha")  # null where samples differ or it is unknown
    if isinstance(alpha, str):
        yield from _alpha_defects(metadata.get("alphas"), alpha, manifest.styles_per_image)
    elif alpha is not None and metadata.get("alpha") != alpha:
        yield f"alpha {metadata.get('alpha')}, the manifest says {alpha}"
    styles, known = metadata.get("styles"), manifest.style_names
    if not isinstance(styles, list) or len(styles) != manifest.styles_per_image or any(s not in known for s in styles):
        yield f"styles {styles}, not {manifest.styles_per_image} of those that the manifest names"


def _alpha_defects(alphas: Any, alpha: str, copies: int) -> Iterator[str]:
    """Yield what is wrong with the strengths of a sample's copies, where the manifest says that they are drawn."""
    try:
        low, high = map(float, alpha.split(":"))
    except ValueError:  # no strength is in a range that is none
        low, high = 1.0, 0.0
    numbers = isinstance(alphas, list) and all(type(one) is float for one in alphas)
    if not numbers or len(alphas) != copies or not all(low <= one <= high for one in alphas):
        yield f"alphas {alphas}, not {copies} in {alpha}, as the manifest says"


def _picture_defects(parts: Mapping[str, bytes], side: int | None) -> Iterator[str]:
    sizes = {}
    for name, payload in parts.items():
        if name not in ("cls", "json"):
            try:
                sizes[name] = decode_picture(payload).size
            except PictureError as error:
                yield f"{name} {error}"
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {width}×{height}" for name, (width, height) in sizes.items())
        yield f"pictures differ in size: {listed}"
    for name, size in sizes.items():
        if side is not None and size != (side, side):
            yield f"{name} has {size[0]}×{size[1]} pixels, the manifest says {side}×{side}"


def verify_shards(shards: str | Path) -> list[str]:
    """Check a folder, or that behind a URL, against its manifest: files, hashes, pairs, labels, pictures.

    Returns every defect of every shard, also those after damaged places; an empty list if all is right. Behind a URL,
    files that the manifest does not name are not found: web servers do not list them.
    Raises `InputError` where there is no manifest to check against.
    """
    with shard_files(shards) as files:
        manifest, defects = _manifest_and_defects(files.folder)
        places: Places = {}
        for shard in manifest.shards:
            try:
                with files.lend(shard) as path:
                    found = [f"{shard.name}: {defect}" for defect in shard_defects(path, manifest, shard, places)]
                    defects += found or side_defects(path)
            except FileNotFoundError:
                defects.append(f"{shard.name}: missing")
            except (InputError, OSError) as error:
                defects.append(f"{shard.name}: cannot be read ({error})")
        return defects or list(index_defects(files.folder, manifest))


def quick_defects(directory: Path) -> list[str]:
    """Return what can be told of a folder without reading its shards: its manifest, its files and their sizes.

    Raises `InputError` where there is no manifest to check against.
    """
    manifest, defects = _manifest_and_defects(directory)
    for shard in manifest.shards:
        path = directory / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            defects.append(f"{shard.name}: missing")
        elif size != shard.bytes:
            defects.append(f"{shard.name}: {counted(size, 'byte')}, the manifest says {shard.bytes}")
    return defects


def _manifest_and_defects(directory: Path) -> tuple[Manifest, list[str]]:
    """Return a folder's manifest, and what is wrong in it and with the other files beside the shards."""
    manifest, wrong = inspect_manifest(directory)
    defects = [f"{MANIFEST_NAME}: {defect}" for defect in wrong]
    named = {shard.name for shard in manifest.shards} | side_names(manifest)
    present = {path.name for path in directory.iterdir()}
    for name in sorted(present - named - {MANIFEST_NAME, FAILURES_NAME, ".gitignore"}):
        defects.append(f"{name}: not named in the manifest")
    failures = directory / FAILURES_NAME
    if (file_sha256(failures) if failures.is_file() else None) != manifest.failures_sha256:
        defects.append(f"{FAILURES_NAME}: differs from what the manifest records")
    return manifest, [*defects, *differing(directory, list_shards(manifest))]


CANDIDATES, PAIRS, PAIRS_PER_CLASS = 10_000, 100, 10
FEWEST_PAIRS = 10
SIDE = 16  # pixels; AdaIN keeps the large shapes in light and dark
FLAT = 1.0  # standard deviation in grey levels of 255, below which such a picture shows no shape
LEVEL = 0.001  # the chance that mixed-up pairs pass
READS = 2000  # in search of equal images
FEWEST_REPEATED, REPEATED_SHARE = 3, 0.01  # some data sets have a few by nature
Shape = NDArray[np.float32]


def folder_warnings(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the `sanity_warnings` of a folder without defects; nothing where it has no training split."""
    if manifest.samples("train"):
        splits = {split: load_index(directory, manifest, split) for split in ("train", "test", "val")}
        yield from sanity_warnings(splits.pop("train"), splits)


def sanity_warnings(train: SplitIndex, others: Mapping[str, SplitIndex]) -> Iterator[str]:
    """Yield a sentence for each thing that looks wrong with a folder; `others` are its other splits by name."""
    if has_single_class(train):
        yield "all training images are of one class, so a classifier has nothing to learn"
    wins, pairs = resemblance(train)
    chance = sum(comb(pairs, count) for count in range(wins, pairs + 1)) / 2**pairs  # by an exact sign test
    if pairs >= FEWEST_PAIRS and chance > LEVEL:
        copies = counted(pairs, "stylized copy", "stylized copies")
        yield (
            f"only {wins} of {copies} resemble their own original more than other originals of its class, which is "
            "chance: the pairs may be mixed up"
        )
    for split, index in others.items():
        repeated, images = repeated_images(train, index)
        if repeated >= FEWEST_REPEATED and repeated > REPEATED_SHARE * images:
            where = f"of {counted(images, f'{split} image')} looked at"
            yield f"{repeated} {where} are training images too, byte by byte, so accuracy on them is that of memory"


def has_single_class(train: SplitIndex) -> bool:
    """Tell whether all samples have the same label."""
    return bool((train.labels == train.labels[0]).all())


def resemblance(train: SplitIndex) -> tuple[int, int]:
    """Return how many copies of a sample resemble their own original more than most others of its class, of how many.

    Resemblance is the absolute correlation of luminance at 16 × 16 pixels.  Pairs with a flat picture do not count.
    """
    wins = pairs = 0
    for indices in _classes(train) if train.spans.shape[1] > 2 else ():
        shapes = [(_shape(original), _shape(copy)) for original, copy in (train.read(i, [0, 1]) for i in indices)]
        both = [(original, copy) for original, copy in shapes if original is not None and copy is not None]
        if len(both) < 2:
            continue
        originals, copies = (np.stack(side) for side in zip(*both, strict=True))
        correlations = np.abs(originals @ copies.T)
        own = correlations.diagonal().copy()
        np.fill_diagonal(correlations, np.nan)
        wins += int((own > np.nanmedian(correlations, axis=0)).sum())
        pairs += len(both)
    return wins, pairs


def _classes(train: SplitIndex) -> Iterator[NDArray[np.int64]]:
    """Yield random samples, the same each time, by class; those alone in their class come together."""
    chosen = np.random.default_rng(0).permutation(len(train))[:CANDIDATES]
    _, labels, counts = np.unique(train.labels[chosen], return_inverse=True, return_counts=True)
    labels = np.where(counts[labels] > 1, labels, -1)
    classes = np.unique(labels)
    for label in np.random.default_rng(0).permutation(classes)[: PAIRS // PAIRS_PER_CLASS]:
        yield chosen[labels == label][: max(PAIRS_PER_CLASS, PAIRS // len(classes))]


def _shape(payload: bytes) -> Shape | None:
    """Return the luminance of a picture at 16 × 16 pixels as a vector of mean 0 and length 1; None for a flat one."""
    try:
        small = decode_picture(payload).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except PictureError:
        return None  # a defect, which is not looked for here
    pixels = np.asarray(small, np.float32).ravel()
    if pixels.std() < FLAT:
        return None
    centred: Shape = pixels - pixels.mean()
    return centred / np.float32(np.linalg.norm(centred))


def repeated_images(train: SplitIndex, other: SplitIndex) -> tuple[int, int]:
    """Return how many images of a split have the bytes of an image of `train`, of how many looked at.

    Equal files have equal sizes: looked at are all images of sizes drawn at random, the same each time.
    """
    sizes, places = np.unique(np.concatenate([train.spans[:, 0, 1], other.spans[:, 0, 1]]), return_inverse=True)
    ours, theirs = places[: len(train)], places[len(train) :]
    drawn = np.random.default_rng(0).permutation(np.unique(theirs))
    counts = np.bincount(places, minlength=len(sizes))[drawn]
    drawn = drawn[: max(1, int(np.searchsorted(counts.cumsum(), READS)))]
    known = {_hash(train, index) for index in np.flatnonzero(np.isin(ours, drawn))[:READS]}
    candidates = np.flatnonzero(np.isin(theirs, drawn))[:READS]
    return sum(_hash(other, index) in known for index in candidates), len(candidates)


def _hash(index: SplitIndex, sample: np.int64) -> bytes:
    (payload,) = index.read(int(sample), [0])
    return hashlib.sha256(payload).digest()
