"""What the fields of a manifest must be: types and ranges, and counts that agree with each other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stylize.shards.format import CODECS, MAX_COPIES

MAX_COUNT = 2**53  # beyond it other JSON readers round
MAX_SIDE = 65_535  # of a JPEG, in pixels


def whole_number(name: str, value: object, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return the value where it is an integer in [low, high], else raise `ValueError`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {_short(value)}, not a whole number from {low} to {high}")
    return value


def text(name: str, value: object) -> str:
    """Return the value where it is a string with a character, else raise `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {_short(value)}, not a text")
    return value


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise an error where a part of the specification that readers use is missing or not what it should be."""
    names = _list("class_names", spec["class_names"])
    repeated = [name for name, count in Counter(text("a class name", name) for name in names).items() if count > 1]
    if repeated or not names:
        raise ValueError(f"class_names name {_short(repeated[0])} twice" if names else "class_names are empty")
    for split, count in spec["counts"].items():
        whole_number(f"counts of {split}", count)
    whole_number("styles_per_image", spec["styles_per_image"], 0, MAX_COPIES)
    for style in _list("styles", spec["styles"]):
        text("a style's name", style["name"])
    if spec.get("size") is not None:
        whole_number("size", spec["size"], 1, MAX_SIDE)
    if spec.get("codec", CODECS[0]) not in CODECS:
        raise ValueError(f"codec is {_short(spec['codec'])}, not one of {', '.join(CODECS)}")


def count_defects(counts: Mapping[str, int], samples: Iterable[tuple[str, str, int]], failures: int) -> Iterator[str]:
    """Yield what disagrees between the images of each split and the shards, given as (name, split, samples)."""
    shards = list(samples)
    for name, times in Counter(name for name, _, _ in shards).items():
        if times > 1:
            yield f"{name} is listed {times} times"
    found = sum(number for _, _, number in shards) + failures
    if found != sum(counts.values()):
        yield f"{found} samples and failures of {sum(counts.values())} images"
    for split in sorted({split for _, split, _ in shards}):
        held = sum(number for _, of, number in shards if of == split)
        if held > counts.get(split, 0):
            yield f"{held} samples of {counts.get(split, 0)} images in {split}"


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_short(value)}, not a list")
    return value


def _short(value: object) -> str:
    """Return a value as one short line: what a stranger wrote may be long."""
    line = repr(value)
    return line if len(line) <= 60 else f"{line[:57]}..."
