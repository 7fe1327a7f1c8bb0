"""Which results are compared: one protocol, the same attacks, the same pixels; and why others are not."""

from collections.abc import Sequence

from attack.evaluation.result import Result
from stylize.console import InputError, option_name

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
    return [
        (
            result.keys,
            tuple(result.document["images"]["labels"]),
            tuple(result.document["model"]["card"]["class_names"]),
            result.pixels_sha256 or known.get((result.shards_sha256, *_seen(result)), ""),
        )
        for result in results
    ]


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
