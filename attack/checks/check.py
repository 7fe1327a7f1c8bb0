"""The one record type of checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, what it means in a line, and the numbers behind it in words and as such.

    `meaning` says what a failure would mean to somebody who knows no attack literature.
    """

    name: str
    passed: bool
    detail: str
    meaning: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
