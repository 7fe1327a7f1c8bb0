"""One model attacked: images chosen, attacks and checks run, one result file written and read. No figures.

Here are the options of `attack run` and `attack transfer`, without PyTorch, which their help does not wait for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stylize.console import InputError
from stylize.console.references import is_reference
from stylize.console.settings import OneOf, check_settings, parse_epsilon

if TYPE_CHECKING:
    from attack.attacks import Norm

SUITES = ("paper", "quick", "full")

EPSILON = typer.Option(
    "--epsilon",
    parser=parse_epsilon,
    metavar="NUMBER",
    show_default=False,
    help="L∞ radius, such as 8/255; repeatable. [default: 2/255, 8/255]",
)
Images = Annotated[int, typer.Option(min=1, help="Test images to attack, the same for every model.")]
Epsilons = Annotated[tuple[float, ...], EPSILON]
BatchSize = Annotated[int, typer.Option(min=0, help="Images attacked at a time; 0: 200 of 32 px, 50 of 64 px or more.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Chooses another list of images, and the attacks' random points.")
]


@dataclass(frozen=True)
class TransferConfig:
    """How models attack each other; a value out of range raises `InputError`."""

    images: Images = 200
    epsilons: Epsilons = (2 / 255, 8 / 255)
    batch_size: BatchSize = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_settings(self)
        _check_epsilons(self.epsilons)


@dataclass(frozen=True)
class AttackConfig:
    """How a model is evaluated; a value out of range raises `InputError`.

    The test images are the first by hash of (seed, key), whether the model is right on them or not. Where
    `strong_images` is None, all meet the slow attacks; else robust accuracy is of so many alone. `batch_size` changes
    results by float rounding, and AutoAttack's by its random numbers.
    """

    suite: Annotated[
        str,
        OneOf(*SUITES),
        typer.Option(help="paper: its path alone; quick: about a minute; full: AutoAttack, minimal norms and more."),
    ] = "quick"
    images: Images = 200
    strong_images: Annotated[
        int | None, typer.Option(min=1, help="Images that meet AutoAttack, Square and minimal norms. [default: all]")
    ] = None
    epsilons: Epsilons = (2 / 255, 8 / 255)
    norm: Annotated[str, typer.Option(help="Norms of the radii: linf, l2, l1, or several with commas.")] = "linf"
    epsilons_l2: Annotated[tuple[float, ...], typer.Option("--epsilon-l2", help="L2 radius; repeatable.")] = (0.5,)
    epsilons_l1: Annotated[tuple[float, ...], typer.Option("--epsilon-l1", help="L1 radius; repeatable.")] = (12.0,)
    steps: Annotated[int, typer.Option(min=1, help="Steps of the paper's path.")] = 100
    step_size: Annotated[float, typer.Option(max=1, help="Step of the path; 1 is the full pixel range.")] = 1e-4
    zero_gradient: Annotated[
        str,
        OneOf("stay", "minus-one"),
        typer.Option(help="A pixel with zero gradient on the path: stay, or minus-one (authors' code)."),
    ] = "stay"
    eot: Annotated[
        int, typer.Option(min=1, help="Draws of a random model that answers and gradients are averaged over.")
    ] = 1
    attack: Annotated[
        tuple[str, ...], typer.Option("--attack", help="Attack of your own, package.module:function; repeatable.")
    ] = ()
    loss: Annotated[
        tuple[str, ...], typer.Option("--loss", help="Loss of your own for PGD, package.module:function; repeatable.")
    ] = ()
    surrogate: Annotated[
        str | None,
        typer.Option(
            help="package.module:function of a network whose gradient stands in for the model's. [default: none]"
        ),
    ] = None
    batch_size: BatchSize = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_settings(self)
        _check_epsilons(self.epsilons)
        radii = {"l2": self.epsilons_l2, "l1": self.epsilons_l1}
        norms = self.norm.split(",")
        if len(set(norms)) < len(norms) or not set(norms) <= {"linf", *radii}:
            raise InputError(f"--norm is {self.norm!r}: give linf, l2 or l1, or several with commas, such as linf,l2.")
        for norm, epsilons in radii.items():
            if not (all(0 < epsilon < math.inf for epsilon in epsilons) and list(epsilons) == sorted(set(epsilons))):
                shown = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
                raise InputError(f"--epsilon-{norm} is {shown}: give different numbers above 0 in growing order.")
        for name, references in (("attack", self.attack), ("loss", self.loss), ("surrogate", [self.surrogate])):
            for reference in references:
                if reference is not None and not is_reference(reference):
                    raise InputError(f"--{name} is {reference!r}: give package.module:function.")
        if self.suite == "paper" and (self.attack or self.loss):
            raise InputError("--suite paper has no attack but its path: give quick or full with --attack or --loss.")
        if not self.step_size > 0:
            raise InputError(f"--step-size is {self.step_size}: give a number above 0.")

    @property
    def radii(self) -> "list[tuple[Norm, float]]":
        """The norms and radii to attack within."""
        every: dict[str, tuple[float, ...]] = {"linf": self.epsilons, "l2": self.epsilons_l2, "l1": self.epsilons_l1}
        return [(norm, epsilon) for norm in self.norm.split(",") for epsilon in every[norm]]  # type: ignore[misc]


_Config = TypeVar("_Config", TransferConfig, AttackConfig)


def with_batch_size(config: _Config, side: int) -> _Config:
    """Return a config whose batches, where it does not say how large, suit images of so many pixels a side.

    They hold as many pixels as 50 images of 64 px, but 50 to 200 images: small ones keep no core busy.
    """
    return config if config.batch_size else replace(config, batch_size=min(max(50 * 64**2 // side**2, 50), 200))


def _check_epsilons(epsilons: Sequence[float]) -> None:
    for epsilon in epsilons:
        if not 0 < epsilon < 1:
            raise InputError(f"--epsilon is {epsilon}: give numbers between 0 and 1, or fractions such as 8/255.")
    if not epsilons or list(epsilons) != sorted(set(epsilons)):
        from attack.attacks import epsilon_name  # which imports PyTorch, in seconds

        given = ", ".join(map(epsilon_name, epsilons)) or "none"
        raise InputError(f"--epsilon is given as {given}: give different ones in growing order.")
