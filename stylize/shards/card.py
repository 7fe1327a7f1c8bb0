"""What people and catalogues read about a folder: the data card (`README.md`) and `croissant.json`."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from stylize.console import InputError, counted, literal
from stylize.files import write_atomically
from stylize.shards import image_roles
from stylize.shards.manifest import Manifest

if TYPE_CHECKING:
    from jinja2 import Template

CARD_NAME, CROISSANT_NAME = "README.md", "croissant.json"
# (name of the configuration, split here, split there); the copies would get lost among splits that have none
CONFIGURATIONS = (("pairs", "train", "train"), ("originals", "val", "validation"), ("originals", "test", "test"))
FILES = {"webdataset": "{split}-*.tar", "parquet": "{split}/*.parquet"}
UNTITLED, _SPDX = ", originals and stylized copies", "https://spdx.org/licenses/"
NAMED = 20
DESCRIBED = ("alpha", "transfer", "size", "work_size", "codec", "quality", "seed", "encoder_sha256", "decoder_sha256")
# Of the Hub's own licence names those that are an SPDX identifier in lower case; for others it wants `other`.
_HUB_LICENCES = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-[234]\.[05]|mit|apache-2\.0|bsd-[23]-clause|odbl|odc-by|pddl|unlicense|wtfpl|[al]?gpl-[23]\.0"
)
CITATIONS = (
    """@article{guan2022stylized,
  title = {Stylized Pairing for Robust Adversarial Defense},
  author = {Guan, Dejian and Zhao, Wentao and Liu, Xiao},
  journal = {Applied Sciences}, volume = {12}, pages = {9357}, year = {2022}, doi = {10.3390/app12189357}
}""",
    """@inproceedings{huang2017arbitrary,
  title = {Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization},
  author = {Huang, Xun and Belongie, Serge},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)}, year = {2017}
}""",
)


@dataclass(frozen=True)
class Facts:
    """What no manifest knows: licence (an SPDX expression), URL and citation of the source, and the set's title.

    `url` is where the folder with the shards is; `published` a date.
    """

    licence: str = ""
    title: str = ""
    source_url: str = ""
    citation: str = ""
    url: str = ""
    published: str = ""

    def __post_init__(self) -> None:
        """Raise `InputError` for a licence that is no SPDX expression."""
        if self.licence:
            try:
                object.__setattr__(self, "licence", canonicalize_license_expression(self.licence))
            except InvalidLicenseExpression as error:
                raise InputError(
                    f"--licence is {self.licence!r} ({error}): give an identifier of spdx.org/licenses, say CC-BY-4.0, "
                    "or LicenseRef-NAME for one that is not there."
                ) from None


NO_FACTS = Facts()


def card_files(manifest: Manifest, facts: Facts = NO_FACTS) -> dict[str, bytes]:
    """Return the data card and `croissant.json` by name."""
    croissant = json.dumps(describe(manifest, facts), indent=2, ensure_ascii=False) + "\n"
    return {CARD_NAME: render_card(manifest, facts).encode(), CROISSANT_NAME: croissant.encode()}


def write_card(directory: Path, manifest: Manifest, facts: Facts = NO_FACTS) -> None:
    """Write both; what is there already, which may have been edited, is replaced only where there are facts to add."""
    for name, payload in card_files(manifest, facts).items():
        if facts != NO_FACTS or not (directory / name).exists():
            write_atomically(directory / name, payload)


def render_card(manifest: Manifest, facts: Facts = NO_FACTS, form: str = "webdataset") -> str:
    """Return the card of shards, or of Parquet files made of them, as Markdown with a head for the Hub.

    The first of its configurations is what `load_dataset` of Hugging Face reads when none is named.
    """
    configurations: dict[str, list[tuple[str, str]]] = {}
    for name, split, theirs in CONFIGURATIONS:
        if manifest.samples(split):
            configurations.setdefault(name, []).append((theirs, FILES[form].format(split=split)))
    licence = re.sub("-(only|or-later)$", "", facts.licence).lower()
    return _template().render(
        manifest=manifest, facts=facts, form=form, configurations=configurations, citations=_citations(facts, manifest),
        source=manifest.spec.get("source", "images"), untitled=UNTITLED, shown=NAMED, described=DESCRIBED,
        hub_licence=licence if not licence or _HUB_LICENCES.fullmatch(licence) else "other", counted=counted,
    )  # fmt: skip


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # which reading shards needs not

    environment = Environment(  # noqa: S701 - Markdown; the filters make names harmless
        loader=PackageLoader("stylize.shards"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"code": _code, "literal": literal, "yaml": json.dumps}
    return environment.get_template("card.md.j2")


def _citations(facts: Facts, manifest: Manifest) -> list[str]:
    """Return the source's citation, if there is one, then those of the method and, where it was used, of AdaIN."""
    own = "\n".join(map(literal, facts.citation.replace("```", "'''").splitlines()))
    return [*([own] if own else []), *CITATIONS[: 1 if manifest.spec.get("stylizer") else None]]


def _code(value: object) -> str:
    """Return a value as code of one line in Markdown; what would end it or a table's cell is replaced."""
    return "`" + literal(str(value)).replace("`", "'").replace("|", "/") + "`"


_TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "prov": "http://www.w3.org/ns/prov#",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}


def describe(manifest: Manifest, facts: Facts) -> dict[str, Any]:
    """Return the folder's Croissant 1.0 description, with the minimum of the vocabulary for responsible AI (RAI).

    A record set `SPLIT-ROLE` has a record for every image: its key and its original (`content`), copy (`styled`, with
    several copies `styled0` …) or label (`cls`, as in `classes`). Those of a split are in one order: `mlcroissant`
    cannot join sets of files that come from one tar.
    """
    source = str(manifest.spec.get("source", "images"))
    plain = " " not in facts.licence and not facts.licence.startswith("LicenseRef-")
    licence = {"license": f"{_SPDX}{facts.licence}.html" if plain else facts.licence} if facts.licence else {}
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": facts.title or source + UNTITLED,
        "description": f"Images of {source}, those of the training split with stylized copies, as WebDataset shards.",
        **licence,
        **({"isBasedOn": facts.source_url, "prov:wasDerivedFrom": facts.source_url} if facts.source_url else {}),
        "citeAs": "\n\n".join(_citations(facts, manifest)),
        **_responsibility(source),
        "distribution": [*map(_archive, manifest.shards), *_file_sets(manifest)],
        "recordSet": [*_record_sets(manifest)],
        **({"datePublished": facts.published} if facts.published else {}),
    }
    return locate_shards(document, facts.url, facts.url) if facts.url else document


def locate_shards(document: dict[str, Any], page: str, folder: str) -> dict[str, Any]:
    """Return a Croissant description of a set that has a page of its own, and its shards in a folder behind a URL."""
    files = [
        {**file, "contentUrl": f"{folder.rstrip('/')}/{file['@id']}"} if "contentUrl" in file else file
        for file in document["distribution"]
    ]
    return {**document, "url": page, "distribution": files}


def read_facts(directory: Path) -> Facts:
    """Return the facts that a folder's description holds, as far as they can be read."""
    found = read_croissant(directory)
    title, licence = str(found.get("name", "")), str(found.get("license", ""))
    own = str(found.get("citeAs", "")).partition(CITATIONS[0])[0].strip()
    facts = {
        "licence": licence.removeprefix(_SPDX).removesuffix(".html"),
        "title": "" if title.endswith(UNTITLED) else title,
        "source_url": str(found.get("isBasedOn", "")),
        "citation": own,
        "url": str(found.get("url", "")),
        "published": str(found.get("datePublished", "")),
    }
    try:
        return Facts(**facts)
    except InputError:  # a licence of somebody's own words
        return Facts(**{**facts, "licence": ""})


def read_croissant(directory: Path) -> dict[str, Any]:
    """Return a folder's description, with `license` where one was given; empty where it has none that can be read."""
    try:
        document = json.loads((directory / CROISSANT_NAME).read_bytes())
        return document if isinstance(document, dict) and isinstance(document.get("distribution"), list) else {}
    except (OSError, ValueError):
        return {}


def _responsibility(source: str) -> dict[str, Any]:
    texts = {
        "dataCollection": f"The originals are the images of {source}; the copies were made of them by a program.",
        "dataLimitations": "The copies have lost part of their texture and of small shapes, and differ from natural "
        "images. They are for training and testing classifiers, not for judging how pictures look.",
        "dataBiases": f"Those of {source}, that is of its choice of images and classes, and of the choice of styles.",
        "personalSensitiveInformation": f"What {source} holds of it: the images were not searched for persons.",
        "dataUseCases": "Training classifiers to rely less on texture, and measuring how robust they are.",
        "dataSocialImpact": "A classifier that is robust in such tests may still fail under other changes of images.",
    }
    made = "stylized-pairing; its version, options, networks and styles are in manifest.json."
    terms = {f"rai:{name}": text for name, text in texts.items()}
    return {**terms, "rai:hasSyntheticData": True, "prov:wasGeneratedBy": made}


def _archive(shard: Any) -> dict[str, Any]:
    names = dict.fromkeys(("@id", "name", "contentUrl"), shard.name)
    kind = {"contentSize": f"{shard.bytes} B", "encodingFormat": "application/x-tar"}
    return {"@type": "cr:FileObject", **names, **kind, "sha256": shard.sha256}


def _file_sets(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield, for every split, the sets of members of one role: originals, copies and labels."""
    codec = manifest.spec.get("codec", "jpg")
    for split in manifest.splits:
        for role in (*image_roles(manifest.copies(split)), "cls"):
            yield {
                "@type": "cr:FileSet",
                "@id": f"{split}-{role}-files",
                "name": f"{split}-{role}-files",
                "containedIn": [{"@id": shard.name} for shard in manifest.entries(split)],
                "encodingFormat": "text/plain" if role == "cls" else f"image/{codec.replace('jpg', 'jpeg')}",
                "includes": "*.cls" if role == "cls" else f"*.{role}.{codec}",
            }


def _record_sets(manifest: Manifest) -> Iterator[dict[str, Any]]:
    names = [{"classes/label": number, "classes/name": name} for number, name in enumerate(manifest.class_names)]
    columns = [_field("classes/label", "sc:Integer"), _field("classes/name", "sc:Text")]
    yield _record_set("classes", columns) | {
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "data": names,
    }
    for split in manifest.splits:
        for role in (*image_roles(manifest.copies(split)), "cls"):
            name, files = f"{split}-{role}", f"{split}-{role}-files"
            kind = "sc:Integer" if role == "cls" else "sc:ImageObject"
            key = _field(f"{name}/key", "sc:Text", files, "filename")
            yield _record_set(name, [key, _field(f"{name}/{role}", kind, files, "content")])


def _record_set(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(name: str, kind: str, files: str | None = None, read: str = "") -> dict[str, Any]:
    key = {"transform": {"regex": r"^([0-9]+)\."}} if read == "filename" else {}  # what comes before its first dot
    source = {"source": {"fileSet": {"@id": files}, "extract": {"fileProperty": read}, **key}} if files else {}
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind, **source}
