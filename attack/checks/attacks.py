"""Checks of attack results: what working attacks must show.

The docstring of each says what its failure means.
"""
# ruff: noqa: D401

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from torch import Tensor

from attack.attacks import AttackResult, Kind, Norm
from attack.attacks.paper_path import AttackPath
from attack.checks import Check, Failure, Finding, Rules
from attack.checks.robustness import Robust, accuracy, breaks_more, gain, is_within, looked_at, radii, worst_case

COPY_DIFFERS = 0.02  # of attacked images: rounding in another batch may change an answer
DRAW_DIFFERS = 0.2  # of attacked images, which lie near a boundary: another draw of a random model may
UNBOUNDED = 0.01  # of the images may withstand an attack without bounds
SQUARE = 0.002  # accuracy that Square may take below the white-box attacks (fra31/auto-attack, `check_square_sr`)
CONVERGED = 0.02  # accuracy that more steps or restarts may take
MOVING = 0.05  # of the loss in the last ten steps (Pintor et al. 2022)
SINGLE_STEP_LEAVES = 0.5  # of clean accuracy, where iterated attacks leave less than guessing
LAZY = "An attack that gains by more effort has not found the worst case yet."
MASKED = "What knows less of the model finds more: the gradient is masked."


class _Evaluation(NamedTuple):
    """All attacks on N images, of which the model gets those in `clean` right as they are."""

    attacks: Sequence[AttackResult]
    clean: Sequence[bool]


class _AtRadius(NamedTuple):
    """Attacks of one norm on N images of a model of `classes` classes, which gets those in `clean` right as they are.

    `attacks` are those with this radius and those that look for the nearest error; `smaller` those with smaller radii.
    """

    norm: Norm
    epsilon: float
    attacks: Sequence[AttackResult]
    smaller: Sequence[AttackResult]
    clean: Robust
    classes: int

    def of_kind(self, kind: Kind) -> list[AttackResult]:
        """Return the attacks of this kind."""
        return [attack for attack in self.attacks if attack.kind == kind]

    def along_the_gradient(self, attacks: Sequence[AttackResult]) -> Robust | None:
        """Return what white-box attacks leave but AutoAttack, which has Square in it and starts from others' survivors.

        None where there are none.
        """
        known = [one for one in attacks if one.kind == "white-box" and not one.name.startswith("autoattack")]
        return self.left(known) if known else None

    def left(self, attacks: Sequence[AttackResult]) -> Robust:
        """Return which images these attacks leave."""
        return worst_case(self.clean, attacks, self.norm, self.epsilon)


OVERALL: Rules[_Evaluation] = Rules()
AT_RADIUS: Rules[_AtRadius] = Rules()


def check_attacks(attacks: Sequence[AttackResult], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """Check attacks on the same N images, of which `clean` (N) tells what a model of `classes` gets right as they are.

    A check is yielded where the attacks that it compares are there; most are about one radius. Attacks are compared
    image by image (`breaks_more`), so that chance in few images is no sign.
    """
    yield from OVERALL.check(_Evaluation(attacks, clean))
    if errors := {attack.title: attack.settings["error"] for attack in attacks if "error" in attack.settings}:
        yield check_errors(errors)
    if asked := [attack for attack in attacks if {"copy_differs", "copy_error"} & attack.settings.keys()]:
        yield check_copies(asked)
    for norm, epsilon in radii(attacks):
        same = [attack for attack in attacks if attack.norm == norm]
        here = [attack for attack in same if attack.epsilon in (None, epsilon)]
        smaller = [attack for attack in same if attack.epsilon is not None and attack.epsilon < epsilon]
        for check in AT_RADIUS.check(_AtRadius(norm, epsilon, here, smaller, tuple(clean), classes)):
            yield replace(check, norm=norm, epsilon=epsilon)


@OVERALL.add("no attack mends an image")
def _only_clean_are_robust(given: _Evaluation) -> Finding:
    """Robust accuracy counts images that are right before and after; anything else flatters the model."""
    wrong = sum(a and not b for attack in given.attacks for a, b in zip(attack.robust, given.clean, strict=True))
    return Finding(wrong == 0, f"{wrong} times an image that is wrong as it is counted as robust", {"images": wrong})


@OVERALL.add("attacked images within their radius")
def _within_radius(given: _Evaluation) -> Finding:
    """Images changed by more than ε say nothing about ε."""
    bounded = [(max(attack.distance, default=0.0), attack.epsilon) for attack in given.attacks if attack.epsilon]
    largest = max((distance / epsilon for distance, epsilon in bounded), default=0.0)
    detail = f"the farthest of {len(bounded)} attacks went to {largest:.4f} of its ε"
    return Finding(all(is_within(*pair) for pair in bounded), detail, {"largest": largest})


@OVERALL.add("unbounded attack reaches 0", "masking")
def _unbounded(given: _Evaluation) -> Finding | None:
    """With no bound every image can be made another; an attack that fails at that fails at anything."""
    lefts = [accuracy(attack.robust) for attack in given.attacks if attack.kind == "unbounded"]
    if not lefts:
        return None
    detail = f"accuracy {min(lefts):.1%} against an attack that may change every pixel at will"
    return Finding(min(lefts) <= UNBOUNDED, detail, {"accuracy": min(lefts)})


@OVERALL.add("attacks of one's own stay within their radius", "note")
def _own_within_radius(given: _Evaluation) -> Finding | None:
    """An image that an attack moved too far, or out of [0, 1], counts as not attacked."""
    outside = {attack.title: attack.settings["outside"] for attack in given.attacks if "outside" in attack.settings}
    detail = ", ".join(f"{title} moved {count} images too far" for title, count in outside.items())
    return Finding(False, detail, {"images": sum(outside.values())}) if outside else None


def check_errors(errors: Mapping[str, str]) -> Check:
    """Say which attacks could not be made, and what the model's error was."""
    detail = f"{', '.join(errors)}: {next(iter(errors.values()))}"
    meaning = "A model that fails while it is attacked hides from the attack."
    return Check("every attack could be made", False, detail, meaning, {"attacks": len(errors)})


def check_copies(attacks: Sequence[AttackResult]) -> Check:
    """See that a model which no image went through answers as the model does."""
    most, allowed, error = 0.0, COPY_DIFFERS, ""
    for settings in (attack.settings for attack in attacks):
        allowed = DRAW_DIFFERS if "eot" in settings else COPY_DIFFERS
        error = error or settings.get("copy_error", "")
        if settings.get("copy_differs", 0) > 1:  # a single image may be rounding
            most = max(most, settings["copy_differs"] / settings["attacked"])
    detail = error or f"it answers otherwise on up to {most:.1%} of an attack's images"
    meaning = "The model remembers earlier images: what accuracy it has depends on what it saw before."
    return Check("a fresh copy answers alike", not error and most <= allowed, detail, meaning, {"share": most})


@AT_RADIUS.add("attacks raise the loss", "masking")
def _loss_rises(here: _AtRadius) -> Finding | None:
    """An attack that does not raise the loss is not an attack: its gradient points nowhere."""
    known = [a for a in here.of_kind("white-box") if {"first", "last"} <= a.losses.keys() and any(a.robust)]
    fallen = [attack for attack in known if not attack.losses["last"] >= attack.losses["first"]]
    if not known:
        return None
    detail = f"{len(fallen)} of {len(known)} attacks ended with a lower loss than they began with{_named(fallen)}"
    return Finding(not fallen, detail, {"attacks": len(fallen)})


@AT_RADIUS.add("attacks come to rest")
def _at_rest(here: _AtRadius) -> Finding | None:
    """An attack that is still getting better when it stops measures its own patience."""
    # Pintor et al. 2022.
    known = [a for a in here.of_kind("white-box") if "change_last_10" in a.losses and any(a.robust)]
    if not known:
        return None
    change = min(abs(attack.losses["change_last_10"]) for attack in known)
    detail = f"the loss of the attack that moved least changed by {change:.1%} in its last steps"
    return Finding(change <= MOVING, detail, {"change": change})


@AT_RADIUS.add("larger ε never helps", "masking")
def _larger_radius(here: _AtRadius) -> Finding | None:
    """Whatever is found within a radius lies within a larger one: the attack loses its way (silent success)."""
    pairs = []
    for attack in (attack for attack in here.attacks if attack.epsilon is not None):
        if same := [other for other in here.smaller if other.name == attack.name]:
            pairs.append((max(same, key=lambda other: other.epsilon or 0), attack))
    if not pairs:
        return None
    worse = [large for small, large in pairs if breaks_more(small.robust, large.robust)]
    detail = f"{len(worse)} of {len(pairs)} attacks broke fewer images than at a smaller radius{_named(worse)}"
    return Finding(not worse, detail, {"attacks": len(pairs), "worse": len(worse)})


def _weaker_kind(here: _AtRadius, kind: Kind, allowed: float) -> Finding | None:
    """See that attacks that know less, or seek something else, find no more than those along the gradient."""
    rivals = here.along_the_gradient(here.attacks)
    others = here.of_kind(kind)
    if rivals is None or not others:
        return None
    most = max(gain(here.left([other])[: looked_at(other)], rivals[: looked_at(other)]) for other in others)
    detail = f"they take at most {most:.1%} of accuracy below the white-box attacks, beyond chance"
    return Finding(most <= allowed, detail, {"gain": most})


WEAKER: tuple[tuple[Kind, str, str, float, Failure], ...] = (
    ("single-step", "many steps are not weaker than one", "The gradient misleads on the way.", 0.0, "masking"),
    ("noise", "noise is weaker than the attack", "An attack that chance beats is none.", 0.0, "masking"),
    ("black-box", "black box is not stronger", MASKED, SQUARE, "masking"),
    ("transfer", "transfer is not stronger", MASKED, 0.0, "masking"),
    ("minimal-norm", "minimal norm is not stronger", "Attacks miss what lies nearby.", CONVERGED, "inconclusive"),
)
for _kind, _name, _meaning, _allowed, _failure in WEAKER:
    AT_RADIUS.add(_name, _failure, _meaning)(partial(_weaker_kind, kind=_kind, allowed=_allowed))


def _more_effort(here: _AtRadius, name: str, title: str) -> Finding | None:
    """See what an attack takes below the white-box attacks before it, whose survivors alone it may have met."""
    gains = []
    for place, attack in enumerate(here.attacks):
        if attack.name == name:
            gains.append(gain(attack.robust, here.along_the_gradient(here.attacks[:place]) or here.clean))
    if not gains:
        return None
    detail = f"{title} take at most {max(gains):.1%} of accuracy more, beyond chance"
    return Finding(max(gains) <= CONVERGED, detail, {"gain": max(gains)})


for _name, _title in (("pgd-ce-doubled", "twice the steps"), ("pgd-restarts", "restarts")):
    AT_RADIUS.add(f"{_title} change little", meaning=LAZY)(partial(_more_effort, name=_name, title=_title))


@AT_RADIUS.add("single steps do not fail alone", "masking")
def _only_one_step_fails(here: _AtRadius) -> Finding | None:
    """Robust to one step and to nothing more: the sign of training that masks gradients."""
    singles, iterated = here.of_kind("single-step"), here.of_kind("white-box")
    if not (singles and iterated):
        return None
    one, many = max(accuracy(single.robust) for single in singles), accuracy(here.left(iterated))
    fails = one > SINGLE_STEP_LEAVES * accuracy(here.clean) and many < 1 / here.classes
    numbers = {"single": one, "iterated": many}
    return Finding(not fails, f"a single step leaves {one:.1%} and iterated attacks {many:.1%}", numbers)


def _named(attacks: Sequence[AttackResult]) -> str:
    return f" ({', '.join(sorted({attack.name for attack in attacks}))})" if attacks else ""


RECOVERED = 0.02  # single images do cross the boundary back: so many, and one in a small set, are no sign
STEP_ROUNDING = 1e-3  # of the budget: float32 rounding of each addition
PATH: Rules[AttackPath] = Rules()


def check_path(path: AttackPath, *, steps: int, step_size: float) -> Iterator[Check]:
    """Check what the paper's attack, asked for `steps` of `step_size`, did to N images.

    A pass of its own, in other batches, classified all of them correctly.
    """
    yield from PATH.check(path)
    largest, budget = path.linf.amax().item(), steps * step_size
    passed, detail = largest <= budget * (1 + STEP_ROUNDING), f"largest L∞ {largest:.6g} of {budget:.6g}"
    meaning = "Images changed by more than the stated distance say nothing about that distance."
    yield Check("distance within budget", passed, detail, meaning, {"largest": largest, "budget": budget})


@PATH.add("finite on the path")
def _finite(path: AttackPath) -> Finding:
    """Logits that overflow have no usable gradient, and their images count as they fall."""
    broken, says = _count(~path.loss.isfinite().all(1))
    return Finding(broken == 0, f"{says} had a loss that was not", {"images": broken})


@PATH.add("ε = 0 equals clean")
def _starts_clean(path: AttackPath) -> Finding:
    """The model under attack is not the model whose accuracy is reported."""
    differs, says = _count(~path.correct[:, 0])
    detail = f"{says} wrong before the first step, and right in the clean pass"
    return Finding(differs == 0, detail, {"images": differs})


@PATH.add("no zero gradients on the path", "note")
def _gradients(path: AttackPath) -> Finding:
    """Where the cross-entropy's gradient is zero the paper's attack stands still, and its curve is too high."""
    elements = path.images[0].numel()
    blind, says = _count((path.zero_gradients == elements).any(1))
    share = path.zero_gradients.double().mean().item() / elements
    detail = f"{says} met an all-zero gradient; {share:.2%} of elements"
    return Finding(blind == 0, detail, {"images": blind, "elements": share})


@PATH.add("loss rises", "note")
def _path_loss_rises(path: AttackPath) -> Finding:
    """An attack that does not raise the loss is not an attack, and the paper's curve is too high."""
    first, last = path.loss[:, 0], path.loss[:, -1]
    before, after = first.mean().item(), last.mean().item()
    detail = f"mean loss {before:.3g} → {after:.3g}; {_count(last < first)[1]} ended with a lower loss"
    return Finding(after > before, detail, {"first": before, "last": after})


@PATH.add("a longer path never helps", "masking")
def _never_helps(path: AttackPath) -> Finding:
    """Images that come back had been broken: the end of the path hides successes (silent success)."""
    means = path.correct.double().mean(0)
    worst = int(means.argmin())
    lowest, last = means[worst].item(), means[-1].item()
    silent, says = _count(~path.correct.all(1) & path.correct[:, -1])
    allowed = max(1.0, RECOVERED * len(path.correct)) + 1e-9
    detail = f"lowest accuracy {lowest:.1%} at step {worst}, last {last:.1%}; {says} wrong on the way only"
    numbers = {"lowest": lowest, "last": last, "silent": silent}
    return Finding((last - lowest) * len(path.correct) <= allowed, detail, numbers)


@PATH.add("pixels in [0, 1]")
def _pixels(path: AttackPath) -> Finding:
    """Pixels outside the range are no images, and a model may fail on them for that alone."""
    low, high = path.images.amin().item(), path.images.amax().item()
    detail = f"attacked pixels lie in [{low:.6g}, {high:.6g}]"
    return Finding(0 <= low <= high <= 1, detail, {"low": low, "high": high})


def _count(selected: Tensor) -> tuple[int, str]:
    """Return how many images (N,) are selected, as a number and in words."""
    count = int(selected.sum())
    return count, f"{count} of {len(selected)} images"
