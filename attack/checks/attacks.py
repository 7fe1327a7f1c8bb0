"""Checks of attack results: what working attacks must show."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from attack.attacks.attack import AttackResult, Kind
from attack.attacks.paper_path import AttackPath
from attack.checks.check import Check, Failure
from attack.checks.robustness import ROUNDING, accuracy, breaks_more, gain, looked_at, within

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


def check_attacks(attacks: Sequence[AttackResult], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """Check attacks on the same N images, of which `clean` (N) tells what a model of `classes` gets right as they are.

    A check is yielded where the attacks that it compares are there. They are compared image by image (`breaks_more`),
    so that chance in few images is no sign.
    """
    yield _only_clean_are_robust(attacks, clean)
    yield _within_radius(attacks)
    yield from _unbounded(attacks)
    yield from _loss_rises(attacks)
    yield from _at_rest(attacks)
    yield from _larger_radius(attacks)
    yield from _weaker_kinds(attacks, clean)
    yield from _more_effort(attacks, clean)
    yield from _only_one_step_fails(attacks, clean, classes)


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
    largest = max((distance / epsilon for distance, epsilon in bounded), default=0.0)
    return Check(
        "attacked images within their radius",
        largest <= 1 + ROUNDING,
        f"the farthest of {len(bounded)} attacks went to {largest:.4f} of its ε",
        "Images changed by more than ε say nothing about ε.",
        {"largest": largest},
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


def _loss_rises(attacks: Sequence[AttackResult]) -> Iterator[Check]:
    known = [a for a in attacks if a.kind == "white-box" and {"first", "last"} <= a.losses.keys() and any(a.robust)]
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


def _at_rest(attacks: Sequence[AttackResult]) -> Iterator[Check]:
    """See that at each radius the attack that moved least in its last steps hardly moved (Pintor et al. 2022)."""
    known = [a for a in attacks if a.kind == "white-box" and "change_last_10" in a.losses and any(a.robust)]
    changes: dict[float | None, float] = {}
    for attack in known:
        change = abs(attack.losses["change_last_10"])
        changes[attack.epsilon] = min(change, changes.get(attack.epsilon, change))
    if changes:
        yield Check(
            "attacks come to rest",
            max(changes.values()) <= MOVING,
            f"the loss of the attack that moved least changed by {max(changes.values()):.1%} in its last steps",
            "An attack that is still getting better when it stops measures its own patience.",
            {"change": max(changes.values())},
        )


def _larger_radius(attacks: Sequence[AttackResult]) -> Iterator[Check]:
    runs: dict[tuple[str, str], list[AttackResult]] = {}
    for attack in sorted(attacks, key=lambda attack: attack.epsilon or 0):
        if attack.epsilon is not None:
            runs.setdefault((attack.name, attack.norm), []).append(attack)
    pairs = [pair for run in runs.values() for pair in pairwise(run)]
    worse = [large for small, large in pairs if breaks_more(small.robust, large.robust)]
    if pairs:
        yield Check(
            "larger ε never helps",
            not worse,
            f"in {len(worse)} of {len(pairs)} pairs of radii the larger one broke fewer images{_named(worse)}",
            "Whatever is found within a radius lies within a larger one: the attack loses its way (silent success).",
            {"pairs": len(pairs), "worse": len(worse)},
            "masking",
        )


def _weaker_kinds(attacks: Sequence[AttackResult], clean: Sequence[bool]) -> Iterator[Check]:
    """See that attacks that know less, or seek something else, find no more than those along the gradient."""
    for kind, name, meaning, allowed, failure in WEAKER:
        others = [attack for attack in attacks if attack.kind == kind]
        gains = [found for other in others for found in _gains(other, _along_the_gradient(attacks), clean)]
        if gains:
            detail = f"they take at most {max(gains):.1%} of accuracy below the white-box attacks, beyond chance"
            yield Check(name, max(gains) <= allowed, detail, meaning, {"gain": max(gains)}, failure)


def _along_the_gradient(attacks: Sequence[AttackResult]) -> list[AttackResult]:
    """Return the white-box attacks without AutoAttack, which has Square in it and starts from others' survivors."""
    return [attack for attack in attacks if attack.kind == "white-box" and not attack.name.startswith("autoattack")]


def _gains(other: AttackResult, white: Sequence[AttackResult], clean: Sequence[bool]) -> list[float]:
    """Return what an attack takes below all white-box attacks of its norm, at its radius or, without one, at each."""
    rivals = [(rival, rival.epsilon) for rival in white if rival.norm == other.norm]
    radii = {radius for _, radius in rivals if radius is not None and other.epsilon in (None, radius)}
    seen = slice(looked_at(other))
    return [
        gain(
            within([other], clean, radius)[seen],
            within([rival for rival, own in rivals if own == radius], clean, radius)[seen],
        )
        for radius in radii
    ]


def _more_effort(attacks: Sequence[AttackResult], clean: Sequence[bool]) -> Iterator[Check]:
    for name, title in (("pgd-ce-doubled", "twice the steps"), ("pgd-restarts", "restarts")):
        places = [place for place, attack in enumerate(attacks) if attack.name == name]
        gains = [_gain_on_earlier(attacks[place], attacks[:place], clean) for place in places]
        if gains:
            yield Check(
                f"{title} change little",
                max(gains) <= CONVERGED,
                f"{title} take at most {max(gains):.1%} of accuracy more, beyond chance",
                "An attack that gains by more effort has not found the worst case yet.",
                {"gain": max(gains)},
            )


def _gain_on_earlier(attack: AttackResult, earlier: Sequence[AttackResult], clean: Sequence[bool]) -> float:
    """Return what an attack takes below the white-box attacks before it, whose survivors alone it may have met."""
    before = [other for other in _along_the_gradient(earlier) if other.norm == attack.norm]
    return gain(attack.robust, within(before, clean, attack.epsilon or 0))


def _only_one_step_fails(attacks: Sequence[AttackResult], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """See that no radius has single steps that leave half of clean accuracy where iterated attacks leave none."""
    white = [attack for attack in attacks if attack.kind == "white-box"]
    pairs = []
    for single in (attack for attack in attacks if attack.kind == "single-step" and attack.epsilon):
        rivals = [rival for rival in white if (rival.norm, rival.epsilon) == (single.norm, single.epsilon)]
        if rivals:
            pairs.append((accuracy(single.robust), accuracy(within(rivals, clean, single.epsilon or 0))))
    if pairs:
        one, many = max(pairs, key=lambda pair: pair[0] - pair[1])
        yield Check(
            "single steps do not fail alone",
            not any(a > SINGLE_STEP_LEAVES * accuracy(clean) and b < 1 / classes for a, b in pairs),
            f"where they differ most, a single step leaves {one:.1%} and iterated attacks {many:.1%}",
            "Robust to one step and to nothing more: the sign of training that masks gradients.",
            {"single": one, "iterated": many},
            "masking",
        )


def _named(attacks: Sequence[AttackResult]) -> str:
    return f" ({', '.join(sorted({attack.name for attack in attacks}))})" if attacks else ""


RECOVERED = 0.02  # single images do cross the boundary back: so many, and one in a small set, are no sign
STEP_ROUNDING = 1e-3  # of the budget: float32 rounding of each addition


def check_path(path: AttackPath, clean: Sequence[bool], *, steps: int, step_size: float) -> Iterator[Check]:
    """Check what the attack did to its N images.

    `clean` (N) tells which of them an independent pass, in other batches or by another load of the model, classified
    correctly; `steps` and `step_size` are what the attack was asked for.
    """
    yield _finite(path)
    yield _starts_clean(path, clean)
    yield _gradients(path)
    yield _path_loss_rises(path)
    yield _never_helps(path)
    yield _pixels(path)
    yield _distance(path, steps * step_size)


def _finite(path: AttackPath) -> Check:
    broken = ~(path.finite & path.loss.isfinite().all(1))
    return Check(
        "finite on the path",
        not broken.any(),
        f"{_of(broken)} had a logit or loss that was not",
        "Logits that overflow have no usable gradient, and their images count as they fall.",
        {"images": _count(broken)},
    )


def _starts_clean(path: AttackPath, clean: Sequence[bool]) -> Check:
    differs = path.correct[:, 0] != torch.tensor(clean)
    return Check(
        "ε = 0 equals clean",
        not differs.any(),
        f"{_of(differs)} evaluated otherwise before the first step than by the clean pass",
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
        "Where the gradient is zero the attack stands still, and the image counts as robust.",
        {"images": _count(blind), "elements": share},
        "masking",
    )


def _path_loss_rises(path: AttackPath) -> Check:
    first, last = path.loss[:, 0], path.loss[:, -1]
    before, after = first.mean().item(), last.mean().item()
    return Check(
        "loss rises",
        after > before,
        f"mean loss {before:.3g} → {after:.3g}; {_of(last < first)} ended with a lower loss",
        "An attack that does not raise the loss is not an attack: its gradient points nowhere.",
        {"first": before, "last": after},
        "masking",
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
