"""Result files: what they hold, a gallery of attacked images among it, written and read."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from math import inf, isfinite
from operator import getitem, itemgetter
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attack.attacks import NORM_NAMES, AttackResult, Norm, epsilon_name
from attack.checks import Check
from attack.checks.robustness import Cell, looked_at, robust_cells, wilson
from attack.checks.verdict import Verdict, Word, evaluate
from attack.evaluation import AttackConfig
from attack.evaluation.paper_path import Records, read_records
from attack.evaluation.statistics import Share, share
from attack.evaluation.suite import main_attack
from attack.evaluation.target import ImageSet, Target
from stylize.console import InputError, literal
from stylize.files import write_atomically
from stylize.shards.decode import encode_png

PICTURES = 3
MAGNIFIED = 20  # times the change, on grey
PICTURE_KEYS = ("class", "predicted", "attack", "epsilon", "original", "change", "attacked")


def attacked_pictures(
    target: Target, images: ImageSet, clean: Sequence[bool], config: AttackConfig
) -> list[dict[str, Any]]:
    """Attack the first three images that the model gets right by the suite's PGD at the largest radius.

    Each comes with what it is (`class`), what it is taken for (`predicted`), and three PNG pictures in base64:
    `original`, `change` (20 times, on grey) and `attacked`. The suite `paper` has no such attack, and no pictures.
    """
    rows = [index for index, right in enumerate(clean) if right][:PICTURES]
    if config.suite == "paper" or not rows:
        return []
    epsilon = config.epsilons[-1]
    originals, labels = images.pixels[rows], images.labels[rows]
    attacked = main_attack(config, "linf", epsilon)(target.network, originals, labels).images
    with torch.no_grad(), torch.autocast(attacked.device.type, enabled=False):
        logits = target.network(attacked)
    names, changes = target.card.class_names, 0.5 + MAGNIFIED * (attacked - originals)
    taken_for = [names[row.argmax()] if row.isfinite().all() else "no class: a logit is not finite" for row in logits]
    triples = zip(originals, changes, attacked, strict=True)
    return [
        {"class": names[label], "predicted": predicted, "attack": "PGD", "epsilon": epsilon}
        | dict(zip(("original", "change", "attacked"), map(_png, triple), strict=True))
        for label, predicted, triple in zip(labels.tolist(), taken_for, triples, strict=True)
    ]


def _png(pixels: Tensor) -> str:
    """Encode one image (3, H, W), clipped to [0, 1]."""
    levels = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return base64.b64encode(encode_png(Image.fromarray(np.ascontiguousarray(levels)))).decode("ascii")


def attack_document(attack: AttackResult) -> dict[str, Any]:
    """Return an attack for JSON, which has no infinity: null is the distance of an image where nothing was found."""
    document = asdict(attack)
    document["robust"] = [int(robust) for robust in attack.robust]
    document["distance"] = [distance if isfinite(distance) else None for distance in attack.distance]
    document["losses"] = {name: loss if isfinite(loss) else None for name, loss in attack.losses.items()}
    return document


def read_attack(document: Mapping[str, Any]) -> AttackResult:
    """Return what `attack_document` wrote; raise `KeyError`, `TypeError` or `ValueError` where it is damaged."""
    robust = tuple(map(bool, document["robust"]))
    distance = tuple(inf if value is None else float(value) for value in document["distance"])
    losses = {name: float("nan") if value is None else float(value) for name, value in document["losses"].items()}
    if len(robust) != len(distance):
        raise ValueError("an attack's images do not fit together")
    attack = AttackResult(**{**document, "robust": robust, "distance": distance, "losses": losses})
    if not (isinstance(attack.name, str) and attack.norm in NORM_NAMES and float(attack.epsilon or 0) >= 0):
        raise ValueError("an attack has no name, norm or radius")
    if not (0 < looked_at(attack) <= len(robust) and attack.forwards + attack.backwards + attack.seconds >= 0):
        raise ValueError("an attack looked at no image or more than there are, or took less than nothing")
    return attack


FORMAT_VERSION = 3
TYPES: dict[str, type | tuple[type, ...]] = {  # of what is asked of a result, which may be another person's
    "model.path model.sha256 shards.path shards.name shards.manifest_sha256 protocol.suite path.zero_gradient": str,
    "clean.correct clean.images model.card.image_size model.card.seed path.images path.steps": int,
    "protocol.images protocol.strong_images protocol.batch_size protocol.seed hardware.threads": int,
    "clean.accuracy path.step_size forwards backwards seconds": (int, float),
    "protocol.epsilons images.keys images.labels images.correct model.card.class_names path.loss path.records": list,
    "model.card.config versions": dict,
    "hardware.cpu hardware.device": str,
    "shards.used_in_training": bool,
}
LISTS = ("records", "attacks", "checks", "verdicts", "gallery")  # written with one line per item


@dataclass(frozen=True)
class Result:
    """A result that was read back: its JSON document, its parts as what they are, and what is often asked of it.

    From the model's card: `arch`, `method`, `training_seed`, `trained_on` (SHA-256 of the manifest of its shards), and
    the number of `classes`; `model_name` is of the folder that holds its file. From the shards attacked: `shards_name`,
    `shards_sha256` (of the manifest). Of the N images: `keys`, whether each is right as it is (`clean`), and
    `pixels_sha256` (see `ImageSet.sha256`; empty in older files).
    `epsilons` are the L∞ radii, growing; `largest_linf` is the L∞ distance of the whole path, steps × step size.
    """

    path: Path
    document: dict[str, Any]
    records: Records
    attacks: tuple[AttackResult, ...]
    checks: tuple[Check, ...]
    verdicts: tuple[Verdict, ...]
    arch: str
    method: str
    training_seed: int
    trained_on: str
    classes: int
    model_name: str
    shards_name: str
    shards_sha256: str
    keys: tuple[str, ...]
    clean: tuple[bool, ...]
    pixels_sha256: str
    epsilons: tuple[float, ...]
    largest_linf: float

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """What attacks left at every norm and radius."""
        return robust_cells(self.clean, self.attacks)

    @property
    def near_chance(self) -> bool:
        """Whether the model is hardly better than guessing."""
        return self.verdicts[0].word == "near chance"


class Partial:
    """Parts by name, each a JSON value, in a hidden file `.OUT.partial`; those of another evaluation are dropped."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.name}.partial")
        self._identity = json.loads(json.dumps(identity))
        self._parts: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(document["parts"]) if document["identity"] == self._identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none yet, or a file of something else: begin anew

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the part of this name, made and stored now where there is none."""
        if name not in self._parts:
            self._parts[name] = make()
            payload = json.dumps({"identity": self._identity, "parts": self._parts}, ensure_ascii=False)
            write_atomically(self.path, payload.encode())
        return self._parts[name]

    def remove(self) -> None:
        """Remove the file, when the result is written."""
        self.path.unlink(missing_ok=True)


def check_output(path: Path, begins: bytes = b"{") -> None:
    """Make the folder of an output file; raise `InputError` where a file cannot be written there, before long work.

    A file that is there and not of the kind to be written, which `begins` so, is not replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder of {path} cannot be made ({error.strerror}): choose another output.") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written (it or its folder stands in the way): choose another output file.")
    if path.is_file() and path.stat().st_size and not path.read_bytes().startswith(begins):
        raise InputError(f"{path} is there and was not made by this command: choose another output file.")


def encode_result(document: Mapping[str, Any]) -> bytes:
    """Encode as JSON with one line per top-level entry, and one per record, attack and check; not finite is null."""
    lines = [f' "{name}": {_encode(name, value)}' for name, value in document.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _encode(name: str, value: Any) -> str:
    if name in LISTS:
        return "[\n  " + ",\n  ".join(_encode("", item) for item in value) + "\n ]"
    if name == "path":
        return "{\n  " + ",\n  ".join(f'"{key}": {_encode(key, item)}' for key, item in value.items()) + "\n }"
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value for JSON, which has no infinity and no NaN: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def read_result(path: Path) -> Result:
    """Read a result, of version 2 too, which had one verdict for all radii: verdicts are then made anew.

    Raises:
        InputError: it is missing, damaged or of another version.
    """
    try:
        document = _literal(json.loads(path.read_text(encoding="utf-8")))
        version = document["format_version"]
    except OSError as error:
        raise InputError(f"Result {path} cannot be read ({error.strerror}): run `attack run` first.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is not a result of `attack run`: give the JSON files that it wrote.") from None
    if version not in (2, FORMAT_VERSION):
        raise InputError(
            f"{path} has format version {version}; this program reads versions 2 and {FORMAT_VERSION}: "
            "run `attack run` again."
        )
    try:
        return _result(path, document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is a damaged result ({error!r}): run `attack run` again.") from None


def _literal(value: Any) -> Any:
    """Return a JSON value without control characters in its texts, names among them: a page can show them."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list):
        return [_literal(item) for item in value] if value and not isinstance(value[0], int | float) else value
    if isinstance(value, dict):
        return {literal(name): _literal(item) for name, item in value.items()}
    return value


def _result(path: Path, document: dict[str, Any]) -> Result:
    version = document["format_version"]
    for places, kind in TYPES.items():
        for place in places.split():
            if not isinstance(reduce(getitem, place.split("."), document), kind):
                raise TypeError(f"{place} is of another type")
    attacks = tuple(read_attack(attack) for attack in document["attacks" if version > 2 else "attempts"])
    checks = tuple(Check(**check) for check in document["checks"])
    for picture in document.get("gallery", ()):
        float(picture["epsilon"])
        itemgetter(*PICTURE_KEYS)(picture)  # a missing one raises
    images = document["images"]
    lengths = {len(images[name]) for name in ("keys", "labels", "correct")}
    if len(lengths | {len(attack.robust) for attack in attacks}) != 1:
        raise ValueError("the numbers of images do not fit together")
    card, shards, steps = document["model"]["card"], document["shards"], document["path"]
    clean, classes = tuple(map(bool, images["correct"])), len(card["class_names"])
    texts, numbers = [*images["keys"], *card["class_names"]], [*images["labels"], *document["protocol"]["epsilons"]]
    if not (all(isinstance(one, str) for one in texts) and all(isinstance(one, int | float) for one in numbers)):
        raise TypeError("keys, class names, labels or radii are of another type")
    if not 0 <= document["clean"]["correct"] <= document["clean"]["images"] > 0:
        raise ValueError("no images, or more right ones than there are")
    records = read_records(document["path"]["records"])
    if records.keys and records.linf.shape[1] != steps["steps"] + 1:
        raise ValueError("the paths have another number of steps")
    if version > 2:
        verdicts = tuple(Verdict(**{**one, "reasons": tuple(one["reasons"])}) for one in document["verdicts"])
    else:
        checks, verdicts = evaluate(clean, attacks, checks, classes)
    if not all(isinstance(text, str) for each in checks for text in (each.name, each.detail, each.meaning)):
        raise TypeError("a check has no name or text")
    if not {one.word for one in verdicts} <= set(get_args(Word)):
        raise ValueError("a verdict is of no known word")
    radii = [(cell.norm, cell.epsilon) for cell in robust_cells(clean, attacks)]
    if [(one.norm, one.epsilon) for one in verdicts][: len(radii)] != radii or len(verdicts) != max(1, len(radii)):
        raise ValueError("the verdicts are not of the attacks' radii")
    return Result(
        path, document, records, attacks, checks, verdicts,
        arch=str(card["arch"]), method=str(card["method"]), training_seed=int(card["seed"]),
        trained_on=str(card["shards_sha256"]), classes=classes, model_name=folder_name(document["model"]["path"]),
        shards_name=str(shards["name"]), shards_sha256=str(shards["manifest_sha256"]), keys=tuple(images["keys"]),
        clean=clean, pixels_sha256=str(images.get("sha256", "")), epsilons=tuple(document["protocol"]["epsilons"]),
        largest_linf=float(steps["steps"] * steps["step_size"]),
    )  # fmt: skip


def whole_split(result: Result) -> Share:
    """Return the clean accuracy over the whole test split."""
    correct, n = result.document["clean"]["correct"], result.document["clean"]["images"]
    return Share(correct / n, *wilson(correct, n), n)


def metrics(result: Result) -> dict[str, Any]:
    """Return the columns of `dvc metrics show`: clean accuracy in [0, 1], and for every radius what attacks left.

    That is an accuracy, of how many images it is, and the verdict; without a radius there is the verdict alone. For
    each norm with minimal-norm attacks there is the median distance of the nearest error, in units of the [0, 1] range.
    """
    medians = {f"median_{norm}": round(far, 5) for norm, far in median_distances(result).items()}
    clean = {"clean": round(whole_split(result).mean, 4), **medians}
    if not result.cells:
        return {"verdict": result.verdicts[0].word, **clean}
    columns: dict[str, Any] = {}
    for cell, verdict in zip(result.cells, result.verdicts, strict=True):
        level = epsilon_name(cell.epsilon).replace("/", "_of_")
        radius = level if cell.norm == "linf" else f"{cell.norm}_{cell.epsilon:.4g}"
        columns[f"verdict_{radius}"] = verdict.word
        columns[f"robust_{radius}"] = round(share(cell.robust).mean, 4)
        columns[f"images_{radius}"] = len(cell.robust)
    return {**clean, **columns}


def median_distances(result: Result) -> dict[Norm, float]:
    """Return by norm the median distance of the nearest error that a minimal-norm attack found; 0 of clean errors."""
    medians: dict[Norm, float] = {}
    for norm in NORM_NAMES:
        minimal = [attack for attack in result.attacks if attack.kind == "minimal-norm" and attack.norm == norm]
        attacks = [attack for attack in minimal if attack.name != "paper-path"]  # whose steps end at a small distance
        nearest = [min(far) for far in zip(*(attack.distance[: looked_at(attack)] for attack in attacks), strict=False)]
        if nearest and isfinite(median(nearest)):
            medians[norm] = median(nearest)
    return medians


def folder_name(model: str) -> str:
    """Return the name of the folder that holds a model file, or of the file where there is none."""
    return Path(model).parent.name or Path(model).stem
