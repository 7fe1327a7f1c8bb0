"""One check: its name, whether it passed, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from attack.attacks.attack import Norm, radius_name

# What a failure means for the verdict: attacks may be blind to a weakness; the numbers cannot carry a verdict; nothing.
Failure = Literal["masking", "inconclusive", "note"]


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, what it means in a line, and the numbers behind it in words and as such.

    `meaning` says what a failure would mean to somebody who knows no attack literature; `failure` what it does to the
    verdict: `masking` (the model may hide its weakness from attacks), `inconclusive` (the numbers are not to be relied
    on), `note` (worth knowing, no more). With `norm` and `epsilon` it is about attacks within one radius alone, without
    about the model.
    """

    name: str
    passed: bool
    detail: str
    meaning: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    failure: Failure = "inconclusive"
    norm: Norm | None = None
    epsilon: float | None = None

    @property
    def title(self) -> str:
        """Name, and radius where it has one: no other check of an evaluation has both."""
        at_radius = self.norm and self.epsilon
        return f"{self.name}, {radius_name(self.norm, self.epsilon)}" if at_radius else self.name  # type: ignore[arg-type]

    def concerns(self, norm: Norm, epsilon: float | None) -> bool:
        """Tell whether the check is about the model, or about attacks within this radius."""
        return self.epsilon is None or (self.norm, self.epsilon) == (norm, epsilon)
