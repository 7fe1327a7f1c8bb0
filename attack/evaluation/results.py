"""The result file (version 1): one JSON document per attacked model, from which every curve can be redrawn."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attack.attacks.fgsm import AttackPath
from attack.evaluation.interpolation import Array
from stylize.errors import InputError
from stylize.wording import literal

FORMAT_VERSION = 1
SECTIONS = {
    "model": ("path", "sha256", "card"),
    "shards": ("path", "name", "manifest_sha256", "used_in_training"),
    "protocol": ("attack", "images", "steps", "step_size", "zero_gradient", "batch_size", "seed", "interpolators"),
    "clean": ("accuracy", "standard_error", "images"),
    "candidates": ("walked", "used"),
    "versions": (),
    "hardware": ("cpu", "threads", "device"),
}


@dataclass(frozen=True)
class Records:
    """What happened to N images at the start and after each of S steps: 0/1 `correct`, `l2` and `linf`, (N, S+1)."""

    correct: Array
    l2: Array
    linf: Array


@dataclass(frozen=True)
class Result:
    """A result that was read back: its JSON document and its records as arrays."""

    path: Path
    document: dict[str, Any]
    records: Records

    @property
    def arch(self) -> str:
        """Architecture, as the model card says."""
        return str(self.document["model"]["card"]["arch"])

    @property
    def method(self) -> str:
        """Training method, as the model card says."""
        return str(self.document["model"]["card"]["method"])

    @property
    def shards_name(self) -> str:
        """Name of the shard folder whose test split was attacked."""
        return str(self.document["shards"]["name"])

    @property
    def shards_sha256(self) -> str:
        """SHA-256 of that folder's manifest."""
        return str(self.document["shards"]["manifest_sha256"])

    @property
    def shards_used(self) -> set[str]:
        """SHA-256 of the manifests of the shards attacked and of those trained on."""
        return {self.shards_sha256, str(self.document["model"]["card"]["shards_sha256"])}

    @property
    def model_name(self) -> str:
        """Name of the folder that holds the model file: what tells two models of one method apart."""
        path = Path(self.document["model"]["path"])
        return path.parent.name or path.stem

    @property
    def largest_linf(self) -> float:
        """The L∞ distance of the whole path, steps × step size."""
        return float(self.document["protocol"]["steps"] * self.document["protocol"]["step_size"])


def image_records(keys: tuple[str, ...], labels: list[int], path: AttackPath) -> list[dict[str, Any]]:
    """Return one JSON object per image; distances keep six significant digits, more than their float32 noise allows."""
    return [
        {"key": key, "label": label, "correct": correct.int().tolist(), "l2": _rounded(l2), "linf": _rounded(linf)}
        for key, label, correct, l2, linf in zip(keys, labels, path.correct, path.l2, path.linf, strict=True)
    ]


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def record_arrays(records: list[dict[str, Any]]) -> Records:
    """Stack the images' records; raise `ValueError` where their shapes or values make no sense."""
    arrays = Records(*(np.array([record[name] for record in records], float) for name in ("correct", "l2", "linf")))
    for array in (arrays.correct, arrays.l2, arrays.linf):
        if array.ndim != 2 or array.shape != arrays.correct.shape or array.shape[1] < 2 or not np.isfinite(array).all():
            raise ValueError("the records of the images do not fit together")
    return arrays


def check_output(path: Path) -> None:
    """Make the folder of an output file; raise `InputError` where a file cannot be written there, before long work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder of {path} cannot be made ({error.strerror}): choose another output.") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written (it or its folder stands in the way): choose another output file.")


def encode_result(document: dict[str, Any]) -> bytes:
    """Encode as JSON with one line per top-level entry, and one per image."""
    lines = []
    for name, value in document.items():
        if name in ("records", "curves", "checks"):
            items = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            lines.append(f' "{name}": [\n  {items}\n ]')
        else:
            lines.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_result(path: Path) -> Result:
    """Read a result; raise `InputError` where it is missing, damaged or of another version."""
    try:
        document = _literal(json.loads(path.read_text(encoding="utf-8")))
        version = document["format_version"]
    except OSError as error:
        raise InputError(f"Result {path} cannot be read ({error.strerror}): run `attack run` first.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is not a result of `attack run`: give the JSON files that it wrote.") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; this program reads version {FORMAT_VERSION}.")
    try:
        return Result(path, document, record_arrays(_complete(document)["records"]))
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


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document if nothing that a report reads is missing; raise `KeyError` otherwise."""
    for section, names in SECTIONS.items():
        for name in names:
            document[section][name]
    for name in ("records", "curves", "checks", "seconds"):
        document[name]
    return document
