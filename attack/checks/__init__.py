"""Whether an evaluation can be believed: functions from a model, or from what attacks found, to checks.

Here is what a check is: its name, whether it passed, and why.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from attack.attacks import Norm, radius_name

# What a failure means for the verdict: attacks may be blind to a weakness; the numbers cannot carry a verdict; nothing.
Failure = Literal["masking", "inconclusive", "note"]
Subject = TypeVar("Subject")


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


class Finding(NamedTuple):
    """Whether a check passed, in words why, and the numbers behind it."""

    passed: bool
    detail: str
    numbers: Mapping[str, float]


class Rules(Generic[Subject]):
    """The checks of a subject, each found out by a function that returns None where it does not apply."""

    def __init__(self) -> None:
        self._rules: list[tuple[str, str, Failure, Callable[[Subject], Finding | None]]] = []

    def add(
        self, name: str, failure: Failure = "inconclusive", meaning: str = ""
    ) -> Callable[[Callable[[Subject], Finding | None]], None]:
        """Return a decorator that adds a check; what its failure means is the docstring of its function by default."""
        return lambda find: self._rules.append((name, meaning or str(find.__doc__), failure, find))

    def check(self, subject: Subject) -> Iterator[Check]:
        """Yield the checks of a subject; one that cannot be made fails, with the reason."""
        for name, meaning, failure, find in self._rules:
            try:
                found = find(subject)
            except Exception as error:  # of a foreign model
                yield Check(name, False, could_not_run(error), meaning)
            else:
                if found:
                    yield Check(name, found.passed, found.detail, meaning, found.numbers, failure)


def could_not_run(error: Exception) -> str:
    """Say that a check could not be made, and why."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"it could not be made ({type(error).__name__}: {reason})"
