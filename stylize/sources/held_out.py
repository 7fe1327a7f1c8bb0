"""Which images are held out for testing where a data set has no test split: by hash and seed, evenly over classes."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from stylize.errors import InputError


def check_fraction(fraction: float) -> None:
    """Raise `InputError` for a fraction that is not in [0, 1)."""
    if not 0 <= fraction < 1:
        raise InputError(f"--test-fraction is {fraction}: give a number from 0 (no test split) to below 1.")


def hold_out(root: str, images: Sequence[tuple[str, str]], fraction: float, seed: int) -> set[str]:
    """Return the names of the held-out ones of images, given as (class, name).

    Every class gives the fraction of its images that is nearest while the whole keeps to it, those of the smallest
    SHA-256 of `SEED:NAME`, and keeps at least one; classes with one image give none, which the others make up for.
    Raises `InputError` where the fraction is not 0 and no class can give any.
    """
    if fraction == 0:
        return set()
    classes: dict[str, list[str]] = defaultdict(list)
    for label, name in images:
        classes[label].append(name)
    giving = {label: names for label, names in classes.items() if len(names) > 1}
    if not giving:
        raise InputError(
            f"{root}: every class has one image, so none can be held out for testing: add images or a folder test, "
            "or give --test-fraction 0."
        )
    share = fraction * len(images) / sum(map(len, giving.values()))
    held_out: set[str] = set()
    quota = taken = 0.0
    for label in sorted(giving, key=lambda label: _hash(seed, label)):
        names = sorted(giving[label], key=lambda name: _hash(seed, name))
        quota += share * len(names)
        count = min(max(round(quota - taken), 0), len(names) - 1)
        taken += count
        held_out.update(names[:count])
    return held_out or {min((name for names in giving.values() for name in names), key=lambda name: _hash(seed, name))}


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
