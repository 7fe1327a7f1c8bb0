"""The result file (version 2): one JSON document per attacked model, from which every number can be counted again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from attack.attacks.attempt import Attempt
from attack.checks.check import Check
from attack.checks.verdict import Verdict
from attack.evaluation.documents import read_attempt
from attack.evaluation.earlier_results import upgrade_result
from attack.evaluation.records import Records, read_records
from stylize.errors import InputError
from stylize.wording import literal

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
    attempts: tuple[Attempt, ...]
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
    """Encode as JSON with one line per top-level entry, and one per record, attempt and check; not finite is null."""
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
    attempts = tuple(read_attempt(attempt) for attempt in document["attempts"])
    checks = tuple(Check(**check) for check in document["checks"])
    images = document["images"]
    lengths = {len(images[name]) for name in ("keys", "labels", "correct")}
    if len(lengths | {len(attempt.robust) for attempt in attempts}) != 1:
        raise ValueError("the numbers of images do not fit together")
    verdict = Verdict(**{**document["verdict"], "reasons": tuple(document["verdict"]["reasons"])})
    return Result(path, document, read_records(document["path"]["records"]), attempts, checks, verdict)
