"""Results of one model over seeds taken together."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attack.attacks.attack import Norm
from attack.checks.robustness import worst_case
from attack.checks.verdict import evaluate
from attack.evaluation.paper_path import (
    AUTHORS_POINTS,
    LINEAR_POINTS,
    Array,
    Curve,
    Records,
    authors_curve,
    linear_curve,
)
from attack.evaluation.result import Result
from attack.evaluation.transfer import Transfer, transfer_attacks
from stylize.console import InputError, option_name

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
        return self.result.near_chance

    def robust(self, epsilon: float) -> Array:
        """Return 0/1 for each of the N images: the worst case over all attacks at an L∞ radius."""
        return np.array(worst_case(self.result.clean, self.result.attacks, "linf", epsilon), float)

    def records(self, keys: Sequence[str]) -> Records:
        """Return the path's records of these images; one that the model gets wrong as it is is wrong all the way."""
        followed = self.result.records
        known = [key for key in keys if key in set(followed.keys)]
        found, steps = followed.chosen(known), self.result.document["path"]["steps"] + 1
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
        return first.epsilons if any(attack.epsilon is not None for attack in first.attacks) else ()

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


METHOD_ORDER = ("normal", "stylized", "pairing", "adversarial")
COMPARED = ("suite", "strong_images", "epsilons", "seed")
NAMED = ("method", "seed", "shards_sha256")


def group_results(results: Sequence[Result], style_sets: Mapping[str, str] | None = None) -> list[Group]:
    """Group results by architecture and images, known by key, label and classes; refuse what cannot be compared.

    `style_sets` names shard folders by the SHA-256 of their manifests: models of one method that were trained on
    several are told apart by these names.
    """
    _check_comparable(results)
    found: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        labels, classes = result.document["images"]["labels"], result.document["model"]["card"]["class_names"]
        found.setdefault((result.arch, result.keys, tuple(labels), tuple(classes)), []).append(result)
    groups = [
        Group(members[0].arch, _shards_name(members), _label(members, style_sets or {})) for members in found.values()
    ]
    return sorted(groups, key=lambda group: (group.arch, group.shards_name))


def take_in(transfer: Transfer, result: Result) -> Result:
    """Return the result with the transfers to its model, and with checks and verdict made again over all attacks."""
    attacks = (*result.attacks, *transfer_attacks(transfer, result))
    checks, verdicts = evaluate(result.clean, attacks, result.checks, result.classes)
    return replace(result, attacks=attacks, checks=checks, verdicts=verdicts)


def _check_comparable(results: Sequence[Result]) -> None:
    if not results:
        raise InputError("There is no result to report: give the JSON files that `attack run` wrote.")
    first = results[0]
    for result in results[1:]:
        for section, names in (("protocol", COMPARED), ("path", ("images", "steps", "step_size", "zero_gradient"))):
            for name in names:
                here, there = first.document[section][name], result.document[section][name]
                if here != there:
                    raise InputError(
                        f"{first.path} was made with {option_name(name)} {here!r} but {result.path} with {there!r}: "
                        "attack all models with one protocol, or write two reports."
                    )


def _shards_name(results: Sequence[Result]) -> str:
    """Return the name of the shard folder that was attacked; style sets of one data set share their test images."""
    return ", ".join(sorted({result.shards_name for result in results}))


def _label(results: list[Result], style_sets: Mapping[str, str]) -> tuple[Entry, ...]:
    """Label by method, adding style set, seed, folder or path only where that is needed to tell models apart."""
    results = sorted(
        results, key=lambda result: (_method_rank(result.method), result.method, result.document["model"]["path"])
    )
    recipes = _recipes(results, style_sets)
    paths = [str(result.document["model"]["path"]) for result in results]
    for labels in (
        recipes,
        [f"{recipe}, seed {result.training_seed}" for recipe, result in zip(recipes, results, strict=True)],
        [f"{recipe} ({result.model_name})" for recipe, result in zip(recipes, results, strict=True)],
        [f"{recipe} ({path})" for recipe, path in zip(recipes, paths, strict=True)],
    ):
        if len(set(labels)) == len(labels):
            named = zip(labels, _same_seed_apart(labels, recipes, results), results, strict=True)
            return tuple(Entry(label, recipe, result) for label, recipe, result in named)
    again = next(path for path in paths if paths.count(path) > 1)
    raise InputError(f"Two results are of the same model, {again}: give each model once.")


def _recipes(results: Sequence[Result], style_sets: Mapping[str, str]) -> list[str]:
    """Name what a model was trained with: its method, its style set and its settings, where the others' are other."""
    trained_on: dict[str, set[str]] = {}
    for result in results:
        trained_on.setdefault(result.method, set()).add(result.trained_on)
    names = [
        result.method
        if len(trained_on[result.method]) == 1
        else f"{result.method} on {style_sets.get(result.trained_on, result.trained_on[:8])}"
        for result in results
    ]
    return _with_settings(names, [_settings(result) for result in results])


def _with_settings(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add to each name the settings in which models of that name differ, such as `pairing, lambda 3`."""
    named = []
    for name, own in zip(names, settings, strict=True):
        alike = [others for other, others in zip(names, settings, strict=True) if other == name]
        differing = [key for key in own if any(others.get(key) != own[key] for others in alike)]
        parts = [f"{option_name(key).strip('-')} {_shown(own[key])}" for key in differing]
        named.append(", ".join([name, *parts]))
    return named


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same_seed_apart(labels: Sequence[str], recipes: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Return the recipes; where two models of one have the same seed, each is a recipe of its own."""
    seeds = Counter((recipe, result.training_seed) for recipe, result in zip(recipes, results, strict=True))
    mixed = {recipe for (recipe, _), models in seeds.items() if models > 1}
    return [label if recipe in mixed else recipe for label, recipe in zip(labels, recipes, strict=True)]


def _settings(result: Result) -> dict[str, Any]:
    """Return what a model was trained with that its name does not say yet: all but method, shards and seed."""
    settings: dict[str, Any] = result.document["model"]["card"]["config"]
    return {name: value for name, value in settings.items() if name not in NAMED}


def _method_rank(method: str) -> int:
    return METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)


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
