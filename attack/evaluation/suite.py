"""Suites of attacks: what each plans of a configuration."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from attack.attacks import NORM_NAMES, OWN_NORMS, Attacked, Kind, Loss, LossFunction, Norm, attack_title
from attack.attacks.autoattack import RAND, STANDARD, Nearest, Part, apgd, autoattack, square
from attack.attacks.minimal_norm import minimal_norm
from attack.attacks.own import own_attack, own_loss
from attack.attacks.pgd import pgd, single_step, targeted, unbounded, uniform_noise
from attack.evaluation import AttackConfig
from stylize.console import InputError

STEPS = {"quick": 20, "full": 40}
QUERIES = {"quick": 50, "full": 1000}
RESTARTS = 3
TARGETS = {"quick": 3, "full": 9}  # classes that PGD climbs towards, one after the other
TARGETED_STEPS = {"quick": 5, "full": 20}  # towards each: in `quick` the steps of one PGD in all
MINIMAL_NORM_STEPS = 100
# Of an image that withstands; AutoAttack's constants.
AUTOATTACK_PASSES: Mapping[Part, int] = {
    "apgd-ce": 300, "apgd-dlr": 300, "apgd-t": 9 * 300, "fab-t": 9 * 400, "square": 5000,
}  # fmt: skip
AUTOATTACK_CLASSES = 4  # its DLR loss with targets looks at the four largest logits


@dataclass(frozen=True)
class Planned:
    """One attack of a suite: `attack` takes a model, images (B, C, H, W) and labels (B,).

    `survivors`: only images that withstood all earlier attacks of no larger radius meet it, as AutoAttack does within
    itself. `strong`: it looks at the first `AttackConfig.strong_images` of the images alone, because it is slow; an
    image that withstands costs up to `passes` forward passes, or half as many backward.
    """

    name: str
    kind: Kind
    epsilon: float | None
    attack: Callable[[nn.Module, Tensor, Tensor], Attacked]
    norm: Norm = "linf"
    settings: Mapping[str, Any] = field(default_factory=dict)
    survivors: bool = False
    strong: bool = False
    passes: int = 0

    @property
    def title(self) -> str:
        """Name and radius, which no other attack of the suite has."""
        return attack_title(self.name, self.norm, self.epsilon)


def plan_attacks(config: AttackConfig, classes: int) -> list[Planned]:
    """Return the attacks of a suite in their order; `paper` has none beside the path.

    AutoAttack is left out of `full` where a model has too few classes. Raises `InputError` where it is not installed.
    """
    if config.suite == "paper":
        return []
    full, radii = config.suite == "full", config.radii
    of_library = [radius for radius in radii if full or radius[0] not in OWN_NORMS]
    if of_library and find_spec("pyautoattack") is None:  # said before long work
        option = "--suite full" if full else "--norm l1"
        raise InputError(f"{option} needs AutoAttack, an extra: pip install 'stylized-pairing[attacks]'.")
    if any(norm not in OWN_NORMS for norm, _ in radii) and classes < AUTOATTACK_CLASSES:
        raise InputError(f"--norm l1 needs {AUTOATTACK_CLASSES} classes and the model has {classes}: leave l1 out.")
    plans = [planned for radius in radii for planned in _within(*radius, config, classes)]
    if full:
        plans += [_minimal_norm(norm, config) for norm in OWN_NORMS]
    if full and classes >= AUTOATTACK_CLASSES:
        nearest: Mapping[Norm, Nearest] = {norm: {} for norm in NORM_NAMES}
        plans += [_autoattack(*radius, config, nearest[radius[0]]) for radius in radii]
    return [*plans, Planned("unbounded", "unbounded", 1.0, partial(unbounded, batch_size=config.batch_size))]


def main_attack(config: AttackConfig, norm: Norm, epsilon: float) -> Callable[[nn.Module, Tensor, Tensor], Attacked]:
    """Return the suite's PGD within a radius: the attack that has to find a planted weakness."""
    return _pgd("pgd-ce", norm, epsilon, "ce", config).attack


def _within(norm: Norm, epsilon: float, config: AttackConfig, classes: int) -> Iterator[Planned]:
    """Yield the attacks within a radius, but for AutoAttack, whose estimate rests on all others."""

    def noise(_model: nn.Module, images: Tensor, _labels: Tensor) -> Attacked:
        return Attacked(uniform_noise(images, epsilon=epsilon, norm=norm, seed=config.seed), 0, 0)

    if norm in OWN_NORMS:
        fgsm = partial(single_step, norm=norm, epsilon=epsilon, batch_size=config.batch_size)
        yield Planned("single-step", "single-step", epsilon, fgsm, norm, passes=3)
        yield Planned("noise", "noise", epsilon, noise, norm)
        yield _pgd("pgd-ce", norm, epsilon, "ce", config)
        yield _targeted(norm, epsilon, config)
        if config.suite == "full":
            yield _pgd("pgd-margin", norm, epsilon, "margin", config, survivors=True)
            yield _pgd("pgd-ce-doubled", norm, epsilon, "ce", config, steps=2 * STEPS["full"], survivors=True)
            yield _pgd("pgd-restarts", norm, epsilon, "ce", config, restarts=RESTARTS, survivors=True)
        for reference in config.loss:
            yield _pgd(f"pgd-{reference}", norm, epsilon, own_loss(reference), config, survivors=True)
    else:
        attack = partial(apgd, norm=norm, epsilon=epsilon, seed=config.seed, batch_size=config.batch_size)
        yield Planned("apgd-ce", "white-box", epsilon, attack, norm, passes=AUTOATTACK_PASSES["apgd-ce"])
    for reference in config.attack:
        own = own_attack(reference, epsilon=epsilon, norm=norm, batch_size=config.batch_size)
        yield Planned(reference, "white-box", epsilon, own, norm, survivors=True)
    if norm == "linf":
        yield _square(epsilon, config, classes)


def _square(epsilon: float, config: AttackConfig, classes: int) -> Planned:
    """Plan AutoAttack's own Square where AutoAttack follows, which then leaves it out; else a shorter one."""
    settings: dict[str, Any] = {"epsilon": epsilon, "seed": config.seed, "batch_size": config.batch_size}
    # AutoAttack has no standard version for few classes, nor for models that are random.
    if config.suite == "full" and config.eot == 1 and classes >= AUTOATTACK_CLASSES:
        attack, queries = partial(autoattack, parts=("square",), **settings), AUTOATTACK_PASSES["square"]
    else:
        queries = QUERIES[config.suite]
        attack = partial(square, queries=queries, **settings)
    return Planned(
        "square", "black-box", epsilon, attack, settings={"queries": queries}, survivors=True, strong=True,
        passes=queries,
    )  # fmt: skip


def _pgd(
    name: str,
    norm: Norm,
    epsilon: float,
    loss: Loss | LossFunction,
    config: AttackConfig,
    *,
    steps: int | None = None,
    restarts: int = 1,
    survivors: bool = False,
) -> Planned:
    steps = steps or STEPS[config.suite]
    attack = partial(
        pgd, norm=norm, epsilon=epsilon, steps=steps, loss=loss, restarts=restarts, seed=config.seed,
        batch_size=config.batch_size,
    )  # fmt: skip
    named = {} if callable(loss) else {"loss": loss}  # what checks know how to compare
    settings = {**named, "steps": steps, "restarts": restarts}
    passes = 3 * steps * restarts
    return Planned(name, "white-box", epsilon, attack, norm, settings, survivors=survivors, passes=passes)


def _targeted(norm: Norm, epsilon: float, config: AttackConfig) -> Planned:
    targets, steps = TARGETS[config.suite], TARGETED_STEPS[config.suite]
    attack = partial(targeted, norm=norm, epsilon=epsilon, targets=targets, steps=steps, batch_size=config.batch_size)
    settings = {"targets": targets, "steps": steps}
    passes = 3 * targets * steps
    return Planned("pgd-targeted", "white-box", epsilon, attack, norm, settings, survivors=True, passes=passes)


def _minimal_norm(norm: Norm, config: AttackConfig) -> Planned:
    steps = MINIMAL_NORM_STEPS
    attack = partial(minimal_norm, norm=norm, steps=steps, seed=config.seed, batch_size=config.batch_size)
    return Planned("minimal-norm", "minimal-norm", None, attack, norm, {"steps": steps}, strong=True, passes=3 * steps)


def _autoattack(norm: Norm, epsilon: float, config: AttackConfig, nearest: Nearest) -> Planned:
    """Plan what is left of AutoAttack: images that it meets withstood its Square, and FAB serves all radii."""
    parts = RAND if config.eot > 1 else tuple(part for part in STANDARD if (part, norm) != ("square", "linf"))
    attack = partial(
        autoattack, norm=norm, epsilon=epsilon, parts=parts, nearest=nearest, seed=config.seed,
        batch_size=config.batch_size,
    )  # fmt: skip
    return Planned(
        "autoattack", "white-box", epsilon, attack, norm, {"version": "standard" if config.eot == 1 else "rand"},
        survivors=True, strong=True, passes=sum(AUTOATTACK_PASSES[part] for part in parts),
    )  # fmt: skip
