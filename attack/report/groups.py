"""Results in groups: attacked on the same images, named by what differs, best first, compared where that is fair.

That is by one protocol, with the same attacks, on the same pixels; and why others are not compared.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from attack.attacks import NORM_NAMES, AttackResult, Norm, radius_name
from attack.checks.robustness import looked_at, worst_case
from attack.checks.verdict import evaluate
from attack.evaluation.paper_path import AUTHORS_POINTS, LINEAR_POINTS, Curve, Records, authors_curve, linear_curve
from attack.evaluation.result import Result, whole_split
from attack.evaluation.statistics import Array, Difference, compare_family, share
from attack.evaluation.target import EXTERNAL
from attack.evaluation.transfer import Transfer, transfer_attacks
from stylize.console import InputError, option_name

SECURITY_POINTS = 61
NO_DIFFERENCE = 5e-4  # 0.05 points, which print as 0.0
PATH_NAME = "paper-path"


@dataclass(frozen=True)
class Entry:
    """One attacked model in a group: a label that no other has there, and the name that models of other seeds share."""

    label: str
    recipe: str
    result: Result

    def robust(self, epsilon: float, norm: Norm = "linf") -> Array:
        """Return 0/1 for each of the N images: the worst case over all attacks within a radius."""
        return np.array(worst_case(self.result.clean, self.result.attacks, norm, epsilon), float)

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
    """Models that were attacked on the same N test images, best first; `across` compares different architectures."""

    title: str
    entries: tuple[Entry, ...]
    across: bool = False

    @cached_property
    def parts(self) -> tuple["Group", ...]:
        """The models that are compared with each other, as groups: of one architecture each, one's own, or all."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            family = "models of your own" if entry.result.method == EXTERNAL else entry.result.arch
            found.setdefault("" if self.across else family, []).append(entry)
        if len(found) == 1:
            return (self,)
        return tuple(Group(f"{self.title}, {family}", tuple(members), True) for family, members in found.items())

    @cached_property
    def ranked(self) -> tuple[Entry, ...]:
        """The models that are compared: those that are not near chance."""
        return tuple(entry for entry in self.entries if not entry.result.near_chance)

    @property
    def radii(self) -> tuple[tuple[Norm, float], ...]:
        """The norms and radii that all models were attacked at; none after the suite `paper`."""
        return tuple((cell.norm, cell.epsilon) for cell in self.entries[0].result.cells)

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

    def largest(self, norm: Norm) -> float:
        """Return where the path's curves end: the L∞ distance that it can reach, the largest L2 distance there is."""
        if norm == "linf":
            return self.entries[0].result.largest_linf
        return max(float(entry.result.records.l2.max(initial=0)) for entry in self.entries)

    def curve(self, entry: Entry, norm: Norm, *, interpolator: str = "linear", common: bool = True) -> Curve:
        """Return an accuracy curve of the path: on the common images, or over all that were looked at."""
        records = entry.records(self.common if common else self.looked_at)
        distance = records.linf if norm == "linf" else records.l2
        if interpolator == "authors":
            return authors_curve(norm, distance, records.correct, AUTHORS_POINTS[norm])
        return linear_curve(norm, distance, records.correct, np.linspace(0, self.largest(norm), LINEAR_POINTS))

    def norms(self) -> tuple[Norm, ...]:
        """Return the norms in which a security curve can be drawn: every model met an attack beside the path."""
        return tuple(norm for norm in NORM_NAMES if all(_bounded(entry.result, norm) for entry in self.entries))

    def security_images(self, norm: Norm) -> int:
        """Return how many of the images, from the first, met every attack of a norm."""
        return min(looked_at(attack) for entry in self.entries for attack in _bounded(entry.result, norm))

    @cached_property
    def security_points(self) -> dict[Norm, Array]:
        """Distances of the security curves by norm: the radii alone, or from 0 on where minimal norms are known.

        Those end where nothing is left of any model that is compared, or at the largest distance that was found.
        """
        return {norm: self._security_points(norm) for norm in self.norms()}

    def _security_points(self, norm: Norm) -> Array:
        entries = self.ranked or self.entries
        attacks = [attack for entry in entries for attack in _bounded(entry.result, norm)]
        radii = sorted({attack.epsilon for attack in attacks if attack.epsilon is not None})
        minimal = [far for attack in attacks if attack.epsilon is None for far in attack.distance if np.isfinite(far)]
        if not minimal or not max(minimal):
            return np.array([0.0, *radii])
        found = sorted(minimal)
        gone = bisect_left(found, True, key=lambda far: not any(each.robust(far, norm).any() for each in entries))
        end = max([*radii, found[min(gone, len(found) - 1)]])
        return np.array(sorted({*np.linspace(0, end, SECURITY_POINTS).tolist(), *radii}))

    def security_curve(self, entry: Entry, norm: Norm) -> Curve:
        """Return robust accuracy against epsilon: the worst case over all attacks, with a 95 % band over images."""
        n, points = self.security_images(norm), self.security_points[norm]
        shares = [share(entry.robust(point, norm)[:n]) for point in points]
        mean, low, high = ([getattr(one, name) for one in shares] for name in ("mean", "low", "high"))
        return Curve("worst case", norm, points.tolist(), mean, low, high, [n] * len(points))

    def security_lines(self, norm: Norm) -> list[tuple[Entry, Curve]]:
        """Return one security curve a recipe: of several training seeds the mean, in a band that holds all theirs."""
        found: dict[str, list[tuple[Entry, Curve]]] = {}
        for entry in self.entries:
            found.setdefault(entry.recipe, []).append((entry, self.security_curve(entry, norm)))
        return [seeds[0] if len(seeds) == 1 else _mean_curve(recipe, seeds) for recipe, seeds in found.items()]


def _mean_curve(recipe: str, seeds: Sequence[tuple[Entry, Curve]]) -> tuple[Entry, Curve]:
    (entry, curve), curves = seeds[0], [curve for _, curve in seeds]
    accuracy = np.mean([each.accuracy for each in curves], 0).tolist()
    low, high = np.min([each.low for each in curves], 0).tolist(), np.max([each.high for each in curves], 0).tolist()
    mean = replace(curve, accuracy=accuracy, low=low, high=high)
    return Entry(f"{recipe}, {len(seeds)} seeds", recipe, entry.result), mean


def _bounded(result: Result, norm: Norm) -> list[AttackResult]:
    """Return the attacks that a security curve of a norm rests on: neither the path nor one without a radius."""
    own = [attack for attack in result.attacks if attack.norm == norm and attack.kind != "unbounded"]
    return [attack for attack in own if attack.name != PATH_NAME]


@dataclass(frozen=True)
class Comparison:
    """A difference of two recipes: where it was measured, and over how many models of the one that has fewer."""

    at: str
    difference: Difference
    seeds: int

    @property
    def alike(self) -> bool:
        """Whether the page would show no difference and no interval."""
        return max(map(abs, (self.difference.low, self.difference.high))) < NO_DIFFERENCE


def compare_models(group: Group) -> list[Comparison]:
    """Compare all recipes of a group at every radius and along the path, with one Holm correction for all."""
    measured = []
    for number, radius in enumerate(group.radii):
        robust = [entry.result.cells[number].robust for entry in group.ranked]
        n = min(map(len, robust), default=0)
        measured.append((f"{radius_name(*radius)}, n = {n}", [np.array(each[:n], float) for each in robust]))
    if group.common:
        points = np.linspace(0, group.largest("linf"), LINEAR_POINTS)
        values = [entry.records(group.common).mean_values(points) for entry in group.ranked]
        measured.append((f"paper’s path, mean, n = {len(group.common)}", values))
    rows: dict[str, list[int]] = {}  # of the models of each recipe, which differ in their training seed
    for row, entry in enumerate(group.ranked):
        rows.setdefault(entry.recipe, []).append(row)
    found = compare_family([{name: np.stack(values)[own] for name, own in rows.items()} for _, values in measured])
    return [
        Comparison(at, gap, min(len(rows[gap.first]), len(rows[gap.second])))
        for (at, _), gaps in zip(measured, found, strict=True)
        for gap in gaps
    ]


COMPARED = {
    "protocol": ("suite", "strong_images", "epsilons", "seed"),
    "path": ("images", "steps", "step_size", "zero_gradient"),
}
STRENGTH = ("steps", "restarts", "queries")  # settings of an attack that must be alike


def check_protocol(results: Sequence[Result]) -> None:
    """Raise `InputError` where there is no result, or results were made with different settings."""
    if not results:
        raise InputError("There is no result to report: give the JSON files that `attack run` wrote.")
    first = results[0]
    for result in results[1:]:
        for section, name in ((section, name) for section, names in COMPARED.items() for name in names):
            here, there = first.document[section][name], result.document[section][name]
            if here != there:
                raise InputError(
                    f"{first.path} was made with {option_name(name)} {here!r} but {result.path} with {there!r}: "
                    "attack all models with one protocol, or write two reports."
                )


def check_attacks(results: Sequence[Result]) -> None:
    """Raise `InputError` where models on the same images did not meet the same attacks of a suite at equal strength.

    Versions of this program may differ in them. Transfers and a user's own attacks, named with a colon, may be of some.
    """
    first = results[0]
    for result in results[1:]:
        for title, *_ in sorted(_strengths(first) ^ _strengths(result)):
            raise InputError(
                f"{first.path} and {result.path} did not meet {title} alike (one lacks it, or it had other steps): "
                "attack all models with one version of this program, or write two reports."
            )


def _strengths(result: Result) -> set[tuple[str, ...]]:
    attacks = [attack for attack in result.attacks if ":" not in attack.name]
    return {(each.title, *(str(each.settings.get(name)) for name in STRENGTH)) for each in attacks}


def image_sets(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """Return for each result what its images are known by: keys, labels, classes, and a digest of the pixels attacked.

    Files from before the digest have that of a file on the same shards and image size, if there is one, or none.
    """
    known = {(result.shards_sha256, *_seen(result)): result.pixels_sha256 for result in results if result.pixels_sha256}
    found: list[tuple[object, ...]] = []
    for result in results:
        labels, names = result.document["images"]["labels"], result.document["model"]["card"]["class_names"]
        pixels = result.pixels_sha256 or known.get((result.shards_sha256, *_seen(result)), "")
        found.append((result.keys, tuple(labels), tuple(names), pixels))
    return found


def why_apart(one: Result, other: Result) -> str:
    """Say why two results with different image sets (see `image_sets`) are not compared."""
    if one.document["model"]["card"]["class_names"] != other.document["model"]["card"]["class_names"]:
        return f"other classes ({one.classes} and {other.classes})"
    if one.keys != other.keys:
        shared = len(set(one.keys) & set(other.keys))
        return f"other images ({len(one.keys)} and {len(other.keys)}, {shared} of one key)"
    if one.document["images"]["labels"] != other.document["images"]["labels"]:
        return "images of equal keys have other labels, so the data are others"
    if _seen(one) != _seen(other):
        return f"the models see images of other sizes ({_seen(one)[0]} and {_seen(other)[0]} px)"
    digests = f"{one.shards_sha256[:8]}… and {other.shards_sha256[:8]}…"
    return f"the images have other pixels, or that is not known: the shards are others (SHA-256 {digests})"


def _seen(result: Result) -> tuple[object, object]:
    card = result.document["model"]["card"]
    return card["image_size"], str(card.get("image_preset"))


NAMED = ("method", "seed", "shards_sha256")


def group_results(
    results: Sequence[Result], style_sets: Mapping[str, str] | None = None, *, across: bool = False
) -> list[Group]:
    """Group results by their images (see `image_sets`); refuse what cannot be compared.

    `style_sets` names shard folders by the SHA-256 of their manifests: models of one method that were trained on
    several are told apart by these names. `across` compares models of different architectures too.
    """
    check_protocol(results)
    found: dict[tuple[object, ...], list[Result]] = {}
    for result, images in zip(results, image_sets(results), strict=True):
        found.setdefault(images, []).append(result)
    for group in found.values():
        check_attacks(group)
    members = sorted(found.values(), key=lambda group: min(map(_sorting, group)))
    entries = [_label(group, style_sets or {}) for group in members]
    return [Group(title, each, across) for title, each in zip(_titles(members), entries, strict=True)]


def _titles(members: Sequence[Sequence[Result]]) -> list[str]:
    """Name groups by the shards attacked and, where these share a name, by what differs; by number at last."""
    shards = [", ".join(sorted({result.shards_name for result in group})) for group in members]
    images = [f"{name}, {len(group[0].keys)} images" for name, group in zip(shards, members, strict=True)]
    classes = [f"{name}, {group[0].classes} classes" for name, group in zip(shards, members, strict=True)]
    for titles in (shards, images, classes):
        if len(set(titles)) == len(titles):
            return titles
    return [f"{name} ({number})" for number, name in enumerate(shards, 1)]


def _sorting(result: Result) -> tuple[str, ...]:
    return (result.shards_name, result.arch, result.method, result.document["model"]["path"])


def take_in(transfer: Transfer, result: Result) -> Result:
    """Return the result with the transfers to its model, and with checks and verdict made again over all attacks."""
    attacks = (*result.attacks, *transfer_attacks(transfer, result))
    checks, verdicts = evaluate(result.clean, attacks, result.checks, result.classes)
    return replace(result, attacks=attacks, checks=checks, verdicts=verdicts)


def _label(results: list[Result], style_sets: Mapping[str, str]) -> tuple[Entry, ...]:
    """Label models by what differs, adding seed, folder or path only where that is needed; return the best first."""
    results = sorted(results, key=_sorting)
    recipes = _recipes(results, style_sets)
    shared, known = Counter(recipes), dict[tuple[str, str], Path]()
    for recipe, result in zip(recipes, results, strict=True):
        if first := known.get((recipe, result.document["model"]["sha256"])):
            raise InputError(f"{first} and {result.path} are of the same model: give each model once.")
        known[recipe, result.document["model"]["sha256"]] = result.path
    for endings in (
        [""] * len(results),
        [f", seed {result.training_seed}" for result in results],
        [f" ({result.model_name})" for result in results],
        [f" ({result.document['model']['path']})" for result in results],
        [f" ({result.path})" for result in results],  # models of one path, of several people
    ):
        named = zip(recipes, endings, strict=True)
        labels = [f"{recipe}{ending}" if shared[recipe] > 1 else recipe for recipe, ending in named]
        if len(set(labels)) == len(labels):
            break
    seeds = Counter(zip(recipes, [result.training_seed for result in results], strict=True))
    mixed = {recipe for (recipe, _), models in seeds.items() if models > 1}  # each a recipe of its own
    apart = [label if recipe in mixed else recipe for label, recipe in zip(labels, recipes, strict=True)]
    return tuple(sorted(map(Entry, labels, apart, results), key=_rank))


def _rank(entry: Entry) -> tuple[bool, float, float, str]:
    """Sort by robust accuracy at all radii together, then by clean accuracy; models near chance come last."""
    robust = sum(share(cell.robust).mean for cell in entry.result.cells)
    return entry.result.near_chance, -robust, -whole_split(entry.result).mean, entry.label


def _recipes(results: Sequence[Result], style_sets: Mapping[str, str]) -> list[str]:
    """Name what a model was trained with: its method, its style set and its settings, where the others' are other.

    Such as `pairing, lambda 3`: settings are all but `NAMED`, which labels say elsewhere.
    """
    trained_on: dict[str, set[str]] = {}
    for result in results:
        trained_on.setdefault(result.method, set()).add(result.trained_on)
    names = _kinds(results)
    for place, result in enumerate(results):
        if len(trained_on[result.method]) > 1:
            names[place] += f" on {style_sets.get(result.trained_on, result.trained_on[:8])}"
    settings = [
        {name: value for name, value in result.document["model"]["card"]["config"].items() if name not in NAMED}
        for result in results
    ]
    named = []
    for name, own in zip(names, settings, strict=True):
        alike = [others for other, others in zip(names, settings, strict=True) if other == name]
        differing = [key for key in own if any(others.get(key) != own[key] for others in alike)]
        parts = [f"{option_name(key).strip('-')} {_shown(own[key])}" for key in differing]
        named.append(", ".join([name, *parts]))
    return named


def _kinds(results: Sequence[Result]) -> list[str]:
    """Name models by their method, after the architecture where there are several; one's own by their function."""
    trained = {result.arch for result in results if result.method != EXTERNAL}
    own = Counter(result.arch for result in results if result.method == EXTERNAL)
    names = []
    for result in results:
        if result.method == EXTERNAL:
            names.append(result.arch if own[result.arch] == 1 else str(result.document["model"]["path"]))
        else:
            names.append(f"{result.arch} {result.method}" if len(trained) > 1 else result.method)
    return names


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


NEEDED = {
    "shape-bias": ("shape_bias", "shape_accuracy", "texture_accuracy", "texture_free"),
    "corruptions": ("corruptions_from", "images", "clean_error", "mean_corruption_error", "records"),
}

Measurements = dict[tuple[str, str], dict[str, Any]]  # documents by kind, a key of `NEEDED`, and model's SHA-256


def read_measurements(paths: Sequence[Path], results: Sequence[Result]) -> Measurements:
    """Read files of `attack shape-bias` and `attack corruptions` on the models of results.

    Raises `InputError` for a file that is neither, of another model, or the second of its kind for a model.
    """
    files: dict[tuple[str, str], Path] = {}
    measurements: Measurements = {}
    for path in paths:
        place, document = _read_measurement(path)
        if not any(place[1] == result.document["model"]["sha256"] for result in results):
            raise InputError(f"{path} is of no model of these results: leave it out, or give the model's result too.")
        if place in files:
            raise InputError(f"{files[place]} and {path} are {place[0]} of one model: give one of them.")
        files[place], measurements[place] = path, document
    return measurements


def _read_measurement(path: Path) -> tuple[tuple[str, str], dict[str, Any]]:
    """Read a file of `attack shape-bias` or `attack corruptions`; raise `InputError` where it is neither."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        itemgetter(*NEEDED[document["kind"]])(document)  # a missing one raises
        return (document["kind"], str(document["model"]["sha256"])), document
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the name.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is no file of `attack shape-bias` or `attack corruptions`: make it again.") from None


def measurement_of(measurements: Measurements, kind: str, entry: Entry) -> dict[str, Any] | None:
    """Return the document of a kind for the model of an entry, or None."""
    return measurements.get((kind, entry.result.document["model"]["sha256"]))
