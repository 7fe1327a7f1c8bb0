"""The data card of a shard folder, `README.md`: for people, and for Hugging Face `datasets`, which reads its head."""

from collections.abc import Iterator

from stylize.shards.manifest import Manifest
from stylize.wording import counted, literal

CARD_NAME = "README.md"
# (name of the configuration, split here, split there); the copies would get lost among splits that have none
CONFIGURATIONS = (("pairs", "train", "train"), ("originals", "val", "validation"), ("originals", "test", "test"))
NAMED = 20
DESCRIBED = ("alpha", "transfer", "size", "work_size", "codec", "quality", "seed", "encoder_sha256", "decoder_sha256")


def render_card(manifest: Manifest) -> str:
    """Return the card as Markdown: configurations for `datasets`, then what the folder holds and how it was made."""
    return "\n".join(["---", *_configurations(manifest), "---", "", *_description(manifest), ""])


def _configurations(manifest: Manifest) -> Iterator[str]:
    """Yield the card's head as YAML; the first configuration is what `load_dataset` reads when none is named."""
    present = [row for row in CONFIGURATIONS if manifest.samples(row[1])]
    yield "configs:" if present else "configs: []"
    for number, name in enumerate(dict.fromkeys(name for name, _, _ in present)):
        yield f"- config_name: {name}"
        if number == 0:
            yield "  default: true"
        yield "  data_files:"
        for _, split, theirs in (row for row in present if row[0] == name):
            yield f"  - split: {theirs}"
            yield f"    path: {split}-*.tar"
    yield "tags: [webdataset, image-classification, style-transfer]"


def _description(manifest: Manifest) -> Iterator[str]:
    spec, copies = manifest.spec, manifest.styles_per_image
    yield f"# {_code(spec.get('source', 'images'))}, originals and stylized copies"
    yield ""
    held = {split: manifest.samples(split) for split in ("train", "val", "test")}
    yield "Shards for [WebDataset](https://github.com/webdataset/webdataset); `manifest.json` says how they were made."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for split, samples in held.items():
        if samples:
            kind = counted(copies, "stylized copy", "stylized copies") + " each" if split == "train" else "originals"
            yield f"| {split} | {counted(samples, 'image')}, {kind} |"
    yield f"| classes | {len(manifest.class_names)}: {_listed(manifest.class_names)} |"
    if manifest.style_names:
        yield f"| styles | {len(manifest.style_names)}: {_listed(manifest.style_names)} |"
    for name in DESCRIBED:
        if spec.get(name) is not None:
            yield f"| {name.replace('_', ' ')} | {_code(spec[name])} |"
    yield ""
    yield "`cls` is the label, an index into the manifest's `class_names`. The licence is that of the source's images;"
    yield "say here which it is before you share the folder. This file may be edited: it counts in no checksum."


def _listed(names: list[str]) -> str:
    return ", ".join(map(_code, names[:NAMED])) + (" …" if len(names) > NAMED else "")


def _code(value: object) -> str:
    """Return a value as code of one line in Markdown; what would end it or a table's cell is replaced."""
    return "`" + literal(str(value)).replace("`", "'").replace("|", "/") + "`"
