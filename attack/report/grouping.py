"""From results to groups: what can be compared, labels, and what transfers add."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attack.evaluation.judgement import conclude
from attack.evaluation.results import Result
from attack.evaluation.transfer_file import Transfer, transfer_attempts
from attack.report.groups import Entry, Group
from stylize.errors import InputError
from stylize.wording import option_name

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
    """Return the result with the transfers to its model, and with checks and verdict made again over all attempts."""
    attempts = (*result.attempts, *transfer_attempts(transfer, result))
    checks, verdict = conclude(result.clean, attempts, result.checks, result.classes)
    return replace(result, attempts=attempts, checks=checks, verdict=verdict)


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
