"""Which images are attacked: the same candidates in the same order for every model."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidates:
    """The keys of the images to attack, in hash order, and how many candidates were walked to find them."""

    keys: tuple[str, ...]
    walked: int


def candidate_order(keys: Iterable[str], seed: int = 0) -> list[str]:
    """Sort keys by the SHA-256 of "seed:key": an order that depends on no model and not on the order of the keys."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def choose_candidates(correct: Mapping[str, bool], images: int, seed: int = 0) -> Candidates:
    """Walk the candidates in hash order and keep those classified correctly, until there are `images` (or all)."""
    chosen: list[str] = []
    walked = 0
    for key in candidate_order(correct, seed):
        if len(chosen) == images:
            break
        walked += 1
        if correct[key]:
            chosen.append(key)
    return Candidates(tuple(chosen), walked)
