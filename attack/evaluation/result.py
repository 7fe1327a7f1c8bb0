"""Result files: what they hold, written and read."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from attack.attacks.attack import AttackResult
from attack.checks.check import Check
from attack.checks.robustness import wilson, worst_case
from attack.checks.verdict import Verdict
from attack.evaluation.judge import checks_and_verdict
from attack.evaluation.paper_path import Records, path_attack, read_records
from attack.evaluation.statistics import Share, share
from stylize.console import InputError, literal


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
    return AttackResult(**{**document, "robust": robust, "distance": distance, "losses": losses})


UNKNOWN = Check(
    "wrong images are counted",
    passed=False,
    detail="a result of version 1 names only images that the model classifies correctly",
    meaning="Accuracies under attack are of images that the model gets right as they are, and models met different "
    "ones. Attack it again for numbers that can be compared.",
)


def upgrade_result(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of version 2 that says what one of version 1 knew; raise `KeyError` where it is damaged.

    Its images are those of the path, all of them classified correctly; the failed check `UNKNOWN` keeps the verdict
    from resting on them.
    """
    records = document["records"]
    keys, clean = [record["key"] for record in records], [True] * len(records)
    path = _path(document)
    checks = [Check(**check) for check in document["checks"]]
    attacks: list[AttackResult] = [path_attack(keys, clean, path)]
    classes = len(document["model"]["card"]["class_names"])
    found, verdict = checks_and_verdict(clean, attacks, [*checks, UNKNOWN], classes)
    accuracy, images = document["clean"]["accuracy"], document["clean"]["images"]
    return {
        **{name: document[name] for name in ("model", "shards", "versions", "hardware", "seconds")},
        "format_version": 2,
        "protocol": _protocol(document["protocol"], len(records)),
        "clean": {"accuracy": accuracy, "correct": round(accuracy * images), "images": images},
        "images": {"keys": keys, "labels": [record["label"] for record in records], "correct": [1] * len(records)},
        "verdict": asdict(verdict),
        "path": path,
        "attempts": [attack_document(attack) for attack in attacks],
        "checks": [asdict(check) for check in found],
        "forwards": path["forwards"],
        "backwards": path["backwards"],
    }


def _protocol(asked: Mapping[str, Any], images: int) -> dict[str, Any]:
    numbers = {"batch_size": asked["batch_size"], "seed": asked["seed"]}
    return {"suite": "paper", "images": images, "strong_images": 0, "epsilons": [], **numbers}


def _path(document: Mapping[str, Any]) -> dict[str, Any]:
    passes = sum(len(record["correct"]) for record in document["records"])
    return {
        **{name: document["protocol"][name] for name in ("steps", "step_size", "zero_gradient")},
        "images": len(document["records"]),
        "forwards": passes,
        "backwards": passes,
        "seconds": document["seconds"],
        "loss": document["loss"],
        "records": document["records"],
    }


FORMAT_VERSION = 2
SECTIONS = {
    "model": ("path", "sha256", "card"),
    "shards": ("path", "name", "manifest_sha256", "used_in_training"),
    "protocol": ("suite", "images", "strong_images", "epsilons", "batch_size", "seed"),
    "clean": ("accuracy", "correct", "images"),
    "images": ("keys", "labels", "correct"),
    "path": ("images", "steps", "step_size", "zero_gradient", "loss", "records"),
    "verdict": ("word", "reasons", "numbers"),
    "versions": (),
    "hardware": ("cpu", "threads", "device"),
}
NUMBERS = ("forwards", "backwards", "seconds")
LISTS = ("records", "attempts", "checks")  # written with one line per item


@dataclass(frozen=True)
class Result:
    """A result that was read back: its JSON document, and its parts as what they are."""

    path: Path
    document: dict[str, Any]
    records: Records
    attacks: tuple[AttackResult, ...]
    checks: tuple[Check, ...]
    verdict: Verdict

    @property
    def arch(self) -> str:
        """Architecture, as the model card says."""
        return str(self.document["model"]["card"]["arch"])

    @property
    def method(self) -> str:
        """Training method, as the model card says."""
        return str(self.document["model"]["card"]["method"])

    @property
    def training_seed(self) -> int:
        """Seed of the training, as the model card says."""
        return int(self.document["model"]["card"]["seed"])

    @property
    def trained_on(self) -> str:
        """SHA-256 of the manifest of the shards that the model was trained on."""
        return str(self.document["model"]["card"]["shards_sha256"])

    @property
    def shards_name(self) -> str:
        """Name of the shard folder whose test split was attacked."""
        return str(self.document["shards"]["name"])

    @property
    def shards_sha256(self) -> str:
        """SHA-256 of that folder's manifest."""
        return str(self.document["shards"]["manifest_sha256"])

    @property
    def model_name(self) -> str:
        """Name of the folder that holds the model file: what tells two models of one method apart."""
        path = Path(self.document["model"]["path"])
        return path.parent.name or path.stem

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the N images of the evaluation, in their order."""
        return tuple(self.document["images"]["keys"])

    @property
    def clean(self) -> tuple[bool, ...]:
        """Whether the model classifies each of the N images correctly as it is."""
        return tuple(map(bool, self.document["images"]["correct"]))

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The L∞ radii of the evaluation, growing."""
        return tuple(self.document["protocol"]["epsilons"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.document["model"]["card"]["class_names"])

    @property
    def largest_linf(self) -> float:
        """The L∞ distance of the whole path, steps × step size."""
        return float(self.document["path"]["steps"] * self.document["path"]["step_size"])


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
    """Read a result, of version 1 too (see `earlier_results`).

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
    if version not in (1, FORMAT_VERSION):
        raise InputError(
            f"{path} has format version {version}; this program reads versions up to {FORMAT_VERSION}: "
            "run `attack run` again."
        )
    try:
        return _result(path, upgrade_result(document) if version == 1 else document)
    except (ValueError, KeyError, TypeError) as error:
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
    for section, names in SECTIONS.items():
        for name in names:
            document[section][name]  # a missing one raises
    if not all(isinstance(document[name], int | float) for name in NUMBERS):
        raise TypeError(f"one of {', '.join(NUMBERS)} is no number")
    if not isinstance(document["versions"], dict):
        raise TypeError("versions are no names and values")
    attacks = tuple(read_attack(attack) for attack in document["attempts"])
    checks = tuple(Check(**check) for check in document["checks"])
    images = document["images"]
    lengths = {len(images[name]) for name in ("keys", "labels", "correct")}
    if len(lengths | {len(attack.robust) for attack in attacks}) != 1:
        raise ValueError("the numbers of images do not fit together")
    verdict = Verdict(**{**document["verdict"], "reasons": tuple(document["verdict"]["reasons"])})
    return Result(path, document, read_records(document["path"]["records"]), attacks, checks, verdict)


def whole_split(result: Result) -> Share:
    """Return the clean accuracy over the whole test split."""
    correct, n = result.document["clean"]["correct"], result.document["clean"]["images"]
    return Share(correct / n, *wilson(correct, n), n)


def robust_shares(result: Result) -> dict[float, Share]:
    """Return by L∞ radius the worst case over all attacks, clean errors counted; none where no attack had a radius."""
    if all(attack.epsilon is None for attack in result.attacks):
        return {}
    return {epsilon: share(worst_case(result.clean, result.attacks, "linf", epsilon)) for epsilon in result.epsilons}


def metrics(result: Result) -> dict[str, Any]:
    """Return the columns of `dvc metrics show`: clean and robust accuracies in [0, 1], and the verdict."""
    robust = {f"robust_{_column(epsilon)}": round(one.mean, 4) for epsilon, one in robust_shares(result).items()}
    return {"verdict": result.verdict.word, "clean": round(whole_split(result).mean, 4), **robust}


def _column(epsilon: float) -> str:
    levels = 255 * epsilon
    return f"{levels:.0f}_of_255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"
