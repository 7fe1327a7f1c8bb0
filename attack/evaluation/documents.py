"""Attempts as JSON and back."""

from collections.abc import Mapping
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from attack.attacks.attempt import Attempt


def attempt_document(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt for JSON, which has no infinity: null is the distance of an image where nothing was found."""
    document = asdict(attempt)
    document["robust"] = [int(robust) for robust in attempt.robust]
    document["distance"] = [distance if isfinite(distance) else None for distance in attempt.distance]
    document["losses"] = {name: loss if isfinite(loss) else None for name, loss in attempt.losses.items()}
    return document


def read_attempt(document: Mapping[str, Any]) -> Attempt:
    """Return what `attempt_document` wrote; raise `KeyError`, `TypeError` or `ValueError` where it is damaged."""
    robust = tuple(map(bool, document["robust"]))
    distance = tuple(inf if value is None else float(value) for value in document["distance"])
    losses = {name: float("nan") if value is None else float(value) for name, value in document["losses"].items()}
    if len(robust) != len(distance):
        raise ValueError("an attempt's images do not fit together")
    return Attempt(**{**document, "robust": robust, "distance": distance, "losses": losses})
