"""Checks of attack results: what working attacks must show."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from attack.attacks.attack import AttackResult, Kind, Norm
from attack.attacks.paper_path import AttackPath
from attack.checks.check import Check, Failure
from attack.checks.robustness import Robust, accuracy, breaks_more, gain, is_within, looked_at, radii, worst_case

COPY_DIFFERS = 0.02  # of attacked images: rounding in another batch may change an answer
UNBOUNDED = 0.01  # of the images may withstand an attack without bounds
SQUARE = 0.002  # accuracy that Square may take below the white-box attacks (fra31/auto-attack, `check_square_sr`)
CONVERGED = 0.02  # accuracy that more steps or restarts may take
MOVING = 0.05  # of the loss in the last ten steps (Pintor et al. 2022)
SINGLE_STEP_LEAVES = 0.5  # of clean accuracy, where iterated attacks leave less than guessing
MASKED = "What knows less of the model finds more: the gradient is masked."
WEAKER: tuple[tuple[Kind, str, str, float, Failure], ...] = (
    ("single-step", "many steps are not weaker than one", "The gradient misleads on the way.", 0.0, "masking"),
    ("noise", "noise is weaker than the attack", "An attack that chance beats is none.", 0.0, "masking"),
    ("black-box", "black box is not stronger", MASKED, SQUARE, "masking"),
    ("transfer", "transfer is not stronger", MASKED, 0.0, "masking"),
    ("minimal-norm", "minimal norm is not stronger", "Attacks miss what lies nearby.", CONVERGED, "inconclusive"),
)
EFFORT = (("pgd-ce-doubled", "twice the steps"), ("pgd-restarts", "restarts"))


class _AtRadius(NamedTuple):
    """Attacks of one norm on N images of a model of `classes` classes, which gets those in `clean` right as they are.

    `attacks` are those with this radius and those that look for the nearest error; `smaller` those with smaller radii.
    """

    norm: Norm
    epsilon: float
    attacks: tuple[AttackResult, ...]
    smaller: tuple[AttackResult, ...]
    clean: Robust
    classes: int

    def of_kind(self, *kinds: Kind) -> list[AttackResult]:
        """Return the attacks of these kinds."""
        return [attack for attack in self.attacks if attack.kind in kinds]

    def left(self, attacks: Sequence[AttackResult]) -> Robust:
        """Return which images these attacks leave."""
        return worst_case(self.clean, attacks, self.norm, self.epsilon)


def check_attacks(attacks: Sequence[AttackResult], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """Check attacks on the same N images, of which `clean` (N) tells what a model of `classes` gets right as they are.

    A check is yielded where the attacks that it compares are there; most are about one radius. Attacks are compared
    image by image (`breaks_more`), so that chance in few images is no sign.
    """
    yield _only_clean_are_robust(attacks, clean)
    yield _within_radius(attacks)
    yield from _unbounded(attacks)
    if errors := {attack.title: attack.settings["error"] for attack in attacks if "error" in attack.settings}:
        yield check_errors(errors)
    if asked := [attack for attack in attacks if "copy_differs" in attack.settings]:
        yield check_copies(asked)
    for norm, epsilon in radii(attacks):
        same = [attack for attack in attacks if attack.norm == norm]
        here = _AtRadius(
            norm,
            epsilon,
            tuple(attack for attack in same if attack.epsilon in (None, epsilon)),
            tuple(attack for attack in same if attack.epsilon is not None and attack.epsilon < epsilon),
            tuple(clean),
            classes,
        )
        for check in (found for function in AT_RADIUS for found in function(here)):
            yield replace(check, norm=norm, epsilon=epsilon)


def _only_clean_are_robust(attacks: Sequence[AttackResult], clean: Sequence[bool]) -> Check:
    wrong = sum(a and not b for attack in attacks for a, b in zip(attack.robust, clean, strict=True))
    return Check(
        "no attack mends an image",
        wrong == 0,
        f"{wrong} times an image that is wrong as it is counted as robust",
        "Robust accuracy counts images that are right before and after; anything else flatters the model.",
        {"images": wrong},
    )


def _within_radius(attacks: Sequence[AttackResult]) -> Check:
    bounded = [(max(attack.distance, default=0.0), attack.epsilon) for attack in attacks if attack.epsilon]
    return Check(
        "attacked images within their radius",
        all(is_within(distance, epsilon) for distance, epsilon in bounded),
        f"the farthest of {len(bounded)} attacks went to {max((d / e for d, e in bounded), default=0.0):.4f} of its ε",
        "Images changed by more than ε say nothing about ε.",
        {"largest": max((distance / epsilon for distance, epsilon in bounded), default=0.0)},
    )


def check_errors(errors: Mapping[str, str]) -> Check:
    """Say which attacks could not be made, and what the model's error was."""
    names = ", ".join(errors)
    return Check(
        "every attack could be made",
        False,
        f"{names}: {next(iter(errors.values()))}",
        "A model that fails while it is attacked hides from the attack.",
        {"attacks": len(errors)},
    )


def check_copies(attacks: Sequence[AttackResult] | None) -> Check:
    """See that a copy of the model that no image went through answers as the model does; None: it cannot be copied."""
    shares = {}
    for attack in attacks or ():
        differing, asked = attack.settings["copy_differs"], attack.settings["attacked"]
        shares[attack.title] = differing / asked if differing > 1 else 0.0  # a single image may be rounding
    most = max(shares.values(), default=0.0)
    return Check(
        "a fresh copy answers alike",
        attacks is not None and most <= COPY_DIFFERS,
        f"it answers otherwise on up to {most:.1%} of an attack's images" if attacks else "the model cannot be copied",
        "The model remembers earlier images: what accuracy it has depends on what it saw before.",
        {"share": most},
    )


def _unbounded(attacks: Sequence[AttackResult]) -> Iterator[Check]:
    lefts = [accuracy(attack.robust) for attack in attacks if attack.kind == "unbounded"]
    if lefts:
        left = min(lefts)
        yield Check(
            "unbounded attack reaches 0",
            left <= UNBOUNDED,
            f"accuracy {left:.1%} against an attack that may change every pixel at will",
            "With no bound every image can be made another; an attack that fails at that fails at anything.",
            {"accuracy": left},
            "masking",
        )


def _loss_rises(here: _AtRadius) -> Iterator[Check]:
    known = [a for a in here.of_kind("white-box") if {"first", "last"} <= a.losses.keys() and any(a.robust)]
    fallen = [attack for attack in known if not attack.losses["last"] >= attack.losses["first"]]
    if known:
        yield Check(
            "attacks raise the loss",
            not fallen,
            f"{len(fallen)} of {len(known)} attacks ended with a lower loss than they began with{_named(fallen)}",
            "An attack that does not raise the loss is not an attack: its gradient points nowhere.",
            {"attacks": len(fallen)},
            "masking",
        )


def _at_rest(here: _AtRadius) -> Iterator[Check]:
    """See that the attack that moved least in its last steps hardly moved (Pintor et al. 2022)."""
    known = [a for a in here.of_kind("white-box") if "change_last_10" in a.losses and any(a.robust)]
    if known:
        change = min(abs(attack.losses["change_last_10"]) for attack in known)
        yield Check(
            "attacks come to rest",
            change <= MOVING,
            f"the loss of the attack that moved least changed by {change:.1%} in its last steps",
            "An attack that is still getting better when it stops measures its own patience.",
            {"change": change},
        )


def _larger_radius(here: _AtRadius) -> Iterator[Check]:
    """See that no attack breaks significantly fewer images than it did at the next smaller radius."""
    pairs = []
    for attack in (attack for attack in here.attacks if attack.epsilon is not None):
        same = [other for other in here.smaller if other.name == attack.name]
        if same:
            pairs.append((max(same, key=lambda other: other.epsilon or 0), attack))
    worse = [large for small, large in pairs if breaks_more(small.robust, large.robust)]
    if pairs:
        yield Check(
            "larger ε never helps",
            not worse,
            f"{len(worse)} of {len(pairs)} attacks broke fewer images than at a smaller radius{_named(worse)}",
            "Whatever is found within a radius lies within a larger one: the attack loses its way (silent success).",
            {"attacks": len(pairs), "worse": len(worse)},
            "masking",
        )


def _weaker_kinds(here: _AtRadius) -> Iterator[Check]:
    """See that attacks that know less, or seek something else, find no more than those along the gradient."""
    rivals = _along_the_gradient(here.attacks)
    for kind, name, meaning, allowed, failure in WEAKER:
        others = here.of_kind(kind)
        if others and rivals:
            most = max(
                gain(here.left([other])[: looked_at(other)], here.left(rivals)[: looked_at(other)]) for other in others
            )
            detail = f"they take at most {most:.1%} of accuracy below the white-box attacks, beyond chance"
            yield Check(name, most <= allowed, detail, meaning, {"gain": most}, failure)


def _more_effort(here: _AtRadius) -> Iterator[Check]:
    for name, title in EFFORT:
        places = [place for place, attack in enumerate(here.attacks) if attack.name == name]
        # What it takes below the white-box attacks before it, whose survivors alone it may have met.
        gains = [
            gain(here.attacks[place].robust, here.left(_along_the_gradient(here.attacks[:place]))) for place in places
        ]
        if gains:
            yield Check(
                f"{title} change little",
                max(gains) <= CONVERGED,
                f"{title} take at most {max(gains):.1%} of accuracy more, beyond chance",
                "An attack that gains by more effort has not found the worst case yet.",
                {"gain": max(gains)},
            )


def _along_the_gradient(attacks: Sequence[AttackResult]) -> list[AttackResult]:
    """Return the white-box attacks but AutoAttack, which has Square in it and starts from others' survivors."""
    return [one for one in attacks if one.kind == "white-box" and not one.name.startswith("autoattack")]


def _only_one_step_fails(here: _AtRadius) -> Iterator[Check]:
    """See that single steps do not leave half of clean accuracy where iterated attacks leave none."""
    singles, iterated = here.of_kind("single-step"), here.of_kind("white-box")
    if singles and iterated:
        one, many = max(accuracy(single.robust) for single in singles), accuracy(here.left(iterated))
        yield Check(
            "single steps do not fail alone",
            not (one > SINGLE_STEP_LEAVES * accuracy(here.clean) and many < 1 / here.classes),
            f"a single step leaves {one:.1%} and iterated attacks {many:.1%}",
            "Robust to one step and to nothing more: the sign of training that masks gradients.",
            {"single": one, "iterated": many},
            "masking",
        )


AT_RADIUS: tuple[Callable[[_AtRadius], Iterator[Check]], ...] = (
    _loss_rises,
    _at_rest,
    _larger_radius,
    _weaker_kinds,
    _more_effort,
    _only_one_step_fails,
)


def _named(attacks: Sequence[AttackResult]) -> str:
    return f" ({', '.join(sorted({attack.name for attack in attacks}))})" if attacks else ""


RECOVERED = 0.02  # single images do cross the boundary back: so many, and one in a small set, are no sign
STEP_ROUNDING = 1e-3  # of the budget: float32 rounding of each addition


def check_path(path: AttackPath, *, steps: int, step_size: float) -> Iterator[Check]:
    """Check what the paper's attack, asked for `steps` of `step_size`, did to N images.

    A pass of its own, in other batches, classified all of them correctly.
    """
    yield _finite(path)
    yield _starts_clean(path)
    yield _gradients(path)
    yield _path_loss_rises(path)
    yield _never_helps(path)
    yield _pixels(path)
    yield _distance(path, steps * step_size)


def _finite(path: AttackPath) -> Check:
    broken = ~path.loss.isfinite().all(1)
    return Check(
        "finite on the path",
        not broken.any(),
        f"{_of(broken)} had a loss that was not",
        "Logits that overflow have no usable gradient, and their images count as they fall.",
        {"images": _count(broken)},
    )


def _starts_clean(path: AttackPath) -> Check:
    differs = ~path.correct[:, 0]
    return Check(
        "ε = 0 equals clean",
        not differs.any(),
        f"{_of(differs)} wrong before the first step, and right in the clean pass",
        "The model under attack is not the model whose accuracy is reported.",
        {"images": _count(differs)},
    )


def _gradients(path: AttackPath) -> Check:
    elements = path.images[0].numel()
    blind = (path.zero_gradients == elements).any(1)
    share = path.zero_gradients.double().mean().item() / elements
    return Check(
        "no zero gradients on the path",
        not blind.any(),
        f"{_of(blind)} met an all-zero gradient; {share:.2%} of elements",
        "Where the cross-entropy's gradient is zero the paper's attack stands still, and its curve is too high.",
        {"images": _count(blind), "elements": share},
        "note",
    )


def _path_loss_rises(path: AttackPath) -> Check:
    first, last = path.loss[:, 0], path.loss[:, -1]
    before, after = first.mean().item(), last.mean().item()
    return Check(
        "loss rises",
        after > before,
        f"mean loss {before:.3g} → {after:.3g}; {_of(last < first)} ended with a lower loss",
        "An attack that does not raise the loss is not an attack, and the paper's curve is too high.",
        {"first": before, "last": after},
        "note",
    )


def _never_helps(path: AttackPath) -> Check:
    accuracy = path.correct.double().mean(0)
    worst = int(accuracy.argmin())
    lowest, last = accuracy[worst].item(), accuracy[-1].item()
    silent = ~path.correct.all(1) & path.correct[:, -1]
    return Check(
        "a longer path never helps",
        (last - lowest) * len(path.correct) <= max(1.0, RECOVERED * len(path.correct)) + 1e-9,
        f"lowest accuracy {lowest:.1%} at step {worst}, last {last:.1%}; {_of(silent)} wrong on the way only",
        "Images that come back had been broken: the end of the path hides successes (silent success).",
        {"lowest": lowest, "last": last, "silent": _count(silent)},
        "masking",
    )


def _pixels(path: AttackPath) -> Check:
    low, high = path.images.amin().item(), path.images.amax().item()
    return Check(
        "pixels in [0, 1]",
        0 <= low <= high <= 1,
        f"attacked pixels lie in [{low:.6g}, {high:.6g}]",
        "Pixels outside the range are no images, and a model may fail on them for that alone.",
        {"low": low, "high": high},
    )


def _distance(path: AttackPath, budget: float) -> Check:
    largest = path.linf.amax().item()
    return Check(
        "distance within budget",
        largest <= budget * (1 + STEP_ROUNDING),
        f"largest L∞ {largest:.6g} of {budget:.6g}",
        "Images changed by more than the stated distance say nothing about that distance.",
        {"largest": largest, "budget": budget},
    )


def _count(selected: Tensor) -> int:
    return int(selected.sum())


def _of(selected: Tensor) -> str:
    return f"{_count(selected)} of {len(selected)} images"
