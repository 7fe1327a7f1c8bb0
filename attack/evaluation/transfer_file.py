"""The file of `attack transfer` (version 1), and what it means for one model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack.attacks.attempt import Attempt
from attack.evaluation.results import Result
from stylize.errors import InputError

TRANSFER_VERSION = 1


@dataclass(frozen=True)
class Transfer:
    """A transfer that was read back."""

    path: Path
    document: dict[str, Any]

    @property
    def digests(self) -> list[str]:
        """SHA-256 of the models' files, in the order of the file."""
        return [str(model["sha256"]) for model in self.document["models"]]

    @property
    def names(self) -> list[str]:
        """Names of the models' folders, or their paths where two folders share a name."""
        paths = [Path(model["path"]) for model in self.document["models"]]
        names = [path.parent.name or path.stem for path in paths]
        return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def read_transfer(path: Path) -> Transfer:
    """Read a transfer; raise `InputError` where it is missing, damaged or of another version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, models, keys = document["format_version"], document["models"], document["images"]["keys"]
        for source in document["sources"]:
            for tried in source["tried"]:
                if version == TRANSFER_VERSION and [len(one) for one in tried["right"]] != [len(keys)] * len(models):
                    raise ValueError("the numbers of images do not fit together")
    except OSError as error:
        raise InputError(f"Transfer {path} cannot be read ({error.strerror}): run `attack transfer` first.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a whole file of `attack transfer`: run it again.") from None
    if version != TRANSFER_VERSION:
        raise InputError(f"{path} has format version {version}; this program reads version {TRANSFER_VERSION}.")
    return Transfer(path, document)


def transfer_attempts(transfer: Transfer, result: Result) -> list[Attempt]:
    """Return what the other models' adversarial images did to the model of a result; nothing where it took no part.

    Raises `InputError` where both looked at different images.
    """
    if result.document["model"]["sha256"] not in transfer.digests:
        return []
    if tuple(transfer.document["images"]["keys"]) != result.keys:
        raise InputError(f"{transfer.path} was made on other images than {result.path}: give both the same options.")
    target = transfer.digests.index(result.document["model"]["sha256"])
    return [
        _attempt(source, name, tried, target, result)
        for number, (source, name) in enumerate(zip(transfer.document["sources"], transfer.names, strict=True))
        for tried in source["tried"]
        if number != target
    ]


def _attempt(source: dict[str, Any], name: str, tried: dict[str, Any], target: int, result: Result) -> Attempt:
    robust = tuple(bool(right) and clean for right, clean in zip(tried["right"][target], result.clean, strict=True))
    epsilon = float(tried["epsilon"])
    distance = (epsilon,) * len(robust)
    return Attempt(f"transfer:{name}", "transfer", "linf", epsilon, robust, distance, len(robust), 0, 0.0)
