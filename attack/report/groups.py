"""What a report compares: models of one architecture that were attacked on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attack.attacks.attempt import Norm
from attack.evaluation.interpolation import AUTHORS_POINTS, LINEAR_POINTS, Array, Curve, authors_curve, linear_curve
from attack.evaluation.records import Records
from attack.evaluation.results import Result
from attack.evaluation.worst_case import worst_case

NEAR_CHANCE = "near chance"  # the verdict on a model that knows too little for its robustness to mean anything


@dataclass(frozen=True)
class Entry:
    """One attacked model in a group: a label that no other has there, and the name that models of other seeds share."""

    label: str
    recipe: str
    result: Result

    @property
    def near_chance(self) -> bool:
        """Whether the model is hardly better than guessing."""
        return self.result.verdict.word == NEAR_CHANCE

    def robust(self, epsilon: float) -> Array:
        """Return 0/1 for each of the N images: the worst case over all attacks at an L∞ radius."""
        return np.array(worst_case(self.result.clean, self.result.attempts, "linf", epsilon), float)

    def records(self, keys: Sequence[str]) -> Records:
        """Return the path's records of these images; one that the model gets wrong as it is is wrong all the way."""
        walked = self.result.records
        known = [key for key in keys if key in set(walked.keys)]
        found, steps = walked.chosen(known), self.result.document["path"]["steps"] + 1
        wrong = np.zeros((len(keys) - len(known), steps))
        columns = [np.vstack([part.reshape(-1, steps), wrong]) for part in (found.correct, found.l2, found.linf)]
        return Records(tuple(keys), *columns)


@dataclass(frozen=True)
class Group:
    """Models of one architecture that were attacked on the same N test images."""

    arch: str
    shards_name: str
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Architecture and shard folder."""
        return f"{self.arch} on {self.shards_name}"

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """The models that are compared: those that are not near chance."""
        return tuple(entry for entry in self.entries if not entry.near_chance)

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The L∞ radii that all models were attacked at; none after the suite `paper`."""
        first = self.entries[0].result
        return first.epsilons if any(attempt.epsilon is not None for attempt in first.attempts) else ()

    @cached_property
    def common(self) -> tuple[str, ...]:
        """Keys of the images that every model of `ranked` classifies correctly, of those looked at for the path."""
        if not self.ranked:
            return ()
        shared = set.intersection(*(set(entry.result.records.keys) for entry in self.ranked))
        return tuple(key for key in self.looked_at if key in shared)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """Keys of the images that were looked at for the paper's path, right or wrong."""
        first = self.entries[0].result
        return first.keys[: first.document["path"]["images"]]

    @property
    def largest_linf(self) -> float:
        """The L∞ distance that the whole path can reach."""
        return self.entries[0].result.largest_linf

    @cached_property
    def largest_l2(self) -> float:
        """The largest L2 distance that occurs."""
        return max(float(entry.result.records.l2.max(initial=0)) for entry in self.entries)

    def largest(self, norm: Norm) -> float:
        """Return where the curves of a norm end."""
        return self.largest_linf if norm == "linf" else self.largest_l2

    def curve(self, entry: Entry, norm: Norm, *, interpolator: str = "linear", common: bool = True) -> Curve:
        """Return an accuracy curve of the path: on the common images, or over all that were looked at."""
        records = entry.records(self.common if common else self.looked_at)
        distance = records.linf if norm == "linf" else records.l2
        if interpolator == "authors":
            return authors_curve(norm, distance, records.correct, AUTHORS_POINTS[norm])
        return linear_curve(norm, distance, records.correct, np.linspace(0, self.largest(norm), LINEAR_POINTS))

    def by_recipe(self, values: Sequence[Array]) -> dict[str, Array]:
        """Stack values (N,) of the models of `ranked` by recipe, (S, N): S training seeds."""
        found: dict[str, list[Array]] = {}
        for entry, row in zip(self.ranked, values, strict=True):
            found.setdefault(entry.recipe, []).append(row)
        return {recipe: np.stack(rows) for recipe, rows in found.items()}
