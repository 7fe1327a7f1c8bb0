"""Shape bias and corruptions, as `attack shape-bias` and `attack corruptions` measured them, read back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack.evaluation.results import Result
from attack.report.groups import Entry
from stylize.errors import InputError

NEEDED = {
    "shape-bias": ("shape_bias", "shape_accuracy", "texture_accuracy", "texture_free"),
    "corruptions": ("corruptions_from", "images", "clean_error", "mean_corruption_error", "records"),
}


@dataclass(frozen=True)
class Measurement:
    """One file: its kind, a key of `NEEDED`, and its JSON document."""

    kind: str
    document: dict[str, Any]

    def is_of(self, result: Result) -> bool:
        """Tell whether the model of a result was measured."""
        return bool(self.document["model"]["sha256"] == result.document["model"]["sha256"])


def read_measurements(paths: Sequence[Path], results: Sequence[Result]) -> list[Measurement]:
    """Read files of `attack shape-bias` and `attack corruptions` on the models of results.

    Raises `InputError` for a file that is neither, of another model, or the second of its kind for a model.
    """
    found: dict[tuple[str, str], Path] = {}
    measurements = []
    for path in paths:
        measured = _read_measurement(path)
        if not any(measured.is_of(result) for result in results):
            raise InputError(f"{path} is of no model of these results: leave it out, or give the model's result too.")
        place = measured.kind, str(measured.document["model"]["sha256"])
        if place in found:
            raise InputError(f"{found[place]} and {path} are {measured.kind} of one model: give one of them.")
        found[place] = path
        measurements.append(measured)
    return measurements


def _read_measurement(path: Path) -> Measurement:
    """Read a file of `attack shape-bias` or `attack corruptions`; raise `InputError` where it is neither."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = document["kind"]
        for name in NEEDED[kind]:
            document[name]
        document["model"]["sha256"]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the name.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} is no whole file of `attack shape-bias` or `attack corruptions`: make it again."
        ) from None
    return Measurement(kind, document)


def measurement_of(measurements: Sequence[Measurement], kind: str, entry: Entry) -> dict[str, Any] | None:
    """Return the document of a kind for the model of an entry, or None."""
    return next((each.document for each in measurements if each.kind == kind and each.is_of(entry.result)), None)
