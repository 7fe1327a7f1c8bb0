"""One check: its name, whether it passed, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# What a failure means for the verdict: attacks may be blind to a weakness; the numbers cannot carry a verdict; nothing.
Failure = Literal["masking", "inconclusive", "note"]


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, what it means in a line, and the numbers behind it in words and as such.

    `meaning` says what a failure would mean to somebody who knows no attack literature; `failure` what it does to the
    verdict: `masking` (the model may hide its weakness from attacks), `inconclusive` (the numbers are not to be relied
    on), `note` (worth knowing, no more).
    """

    name: str
    passed: bool
    detail: str
    meaning: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    failure: Failure = "inconclusive"
