"""Adversarial images of each model tried on every other."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial as call_later
from pathlib import Path
from typing import Any

from attack.attacks.attack import AttackResult
from attack.attacks.pgd import OVERSHOOT, pgd
from attack.evaluation.config import TransferConfig
from attack.evaluation.images import ImageSet, ProgressReport, choose_images, load_image_set
from attack.evaluation.result import Partial, Result, check_output, encode_result
from attack.evaluation.run import evaluate_images, silent
from attack.evaluation.suite import STEPS
from attack.evaluation.target import Target, open_model, without_tf32
from stylize.console import InputError
from stylize.files import write_atomically
from train.records import describe_environment

TRANSFER_VERSION = 1


@dataclass(frozen=True)
class Transfer:
    """A transfer that was read back."""

    path: Path
    document: dict[str, Any]

    @property
    def digests(self) -> list[str]:
        """SHA-256 of the models' files, in the order of the file."""
        return [str(model["sha256"]) for model in self.document["models"]]

    @property
    def names(self) -> list[str]:
        """Names of the models' folders, or their paths where two folders share a name."""
        paths = [Path(model["path"]) for model in self.document["models"]]
        names = [path.parent.name or path.stem for path in paths]
        return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def read_transfer(path: Path) -> Transfer:
    """Read a transfer; raise `InputError` where it is missing, damaged or of another version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, models, keys = document["format_version"], document["models"], document["images"]["keys"]
        for source in document["sources"]:
            for tried in source["tried"]:
                if version == TRANSFER_VERSION and [len(one) for one in tried["right"]] != [len(keys)] * len(models):
                    raise ValueError("the numbers of images do not fit together")
    except OSError as error:
        raise InputError(f"Transfer {path} cannot be read ({error.strerror}): run `attack transfer` first.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a whole file of `attack transfer`: run it again.") from None
    if version != TRANSFER_VERSION:
        raise InputError(f"{path} has format version {version}; this program reads version {TRANSFER_VERSION}.")
    return Transfer(path, document)


def transfer_attacks(transfer: Transfer, result: Result) -> list[AttackResult]:
    """Return what the other models' adversarial images did to the model of a result; nothing where it took no part.

    Raises `InputError` where both looked at different images.
    """
    if result.document["model"]["sha256"] not in transfer.digests:
        return []
    if tuple(transfer.document["images"]["keys"]) != result.keys:
        raise InputError(f"{transfer.path} was made on other images than {result.path}: give both the same options.")
    target = transfer.digests.index(result.document["model"]["sha256"])
    return [
        _attack(source, name, tried, target, result)
        for number, (source, name) in enumerate(zip(transfer.document["sources"], transfer.names, strict=True))
        for tried in source["tried"]
        if number != target
    ]


def _attack(source: dict[str, Any], name: str, tried: dict[str, Any], target: int, result: Result) -> AttackResult:
    robust = tuple(bool(right) and clean for right, clean in zip(tried["right"][target], result.clean, strict=True))
    epsilon = float(tried["epsilon"])
    distance = (epsilon,) * len(robust)
    return AttackResult(f"transfer:{name}", "transfer", "linf", epsilon, robust, distance, len(robust), 0, 0.0)


TRANSFER_STEPS = STEPS["quick"]


def attack_transfer(
    models: Sequence[Path],
    shards: Path,
    out: Path,
    config: TransferConfig = TransferConfig(),  # noqa: B008 (frozen)
    *,
    progress: ProgressReport = silent,
) -> dict[str, Any]:
    """Attack each model by PGD, show the images to every other model, write to `out` who withstood them, and return it.

    The settings must be those of the models' results, so that `attack report` can take the transfers in. Finished
    sources are kept beside `out` until the end.

    Raises:
        InputError: the same model twice, models that see images of different sizes, or a file
            that is missing or damaged.
    """
    check_output(out)
    targets = [open_model(path, shards) for path in models]
    _check_targets(models, targets)
    keys = choose_images(shards, config.images, config.seed)
    images = load_image_set(shards, *targets[0].sees, keys, targets[0].device)
    identity = {"models": [target.identity for target in targets], "config": asdict(config)}
    partial = Partial(out, {"format_version": TRANSFER_VERSION, **identity})
    sources = []
    with without_tf32():
        for number, (path, target) in enumerate(zip(models, targets, strict=True)):
            progress(f"Transfer from {path.parent.name}", number, len(models))
            sources.append(partial.once(path.as_posix(), call_later(_try, target, targets, images, config)))
    document = {
        "format_version": TRANSFER_VERSION,
        "models": [target.document["model"] for target in targets],
        "shards": targets[0].document["shards"],
        "images": {"keys": list(keys), "labels": images.labels.tolist()},
        "protocol": {"seed": config.seed, "epsilons": config.epsilons, "batch_size": config.batch_size, **_numbers()},
        "sources": sources,
        **describe_environment(targets[0].device),
    }
    write_atomically(out, encode_result(document))
    partial.remove()
    return document


def _numbers() -> dict[str, Any]:
    return {"attack": "pgd", "loss": "ce", "steps": TRANSFER_STEPS, "step_size": f"{OVERSHOOT:g} ε / steps"}


def _check_targets(models: Sequence[Path], targets: Sequence[Target]) -> None:
    digests = [target.identity["model"] for target in targets]
    for index, path in enumerate(models):
        first = digests.index(digests[index])
        if first != index:
            raise InputError(f"{models[first]} and {path} are the same model: give each once.")
        sizes = [target.sees for target in (targets[0], targets[index])]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"{models[0]} sees images of {sizes[0][0]} pixels and {path} of {sizes[1][0]} by other presets: "
                "try transfer among models that see the same images."
            )


def _try(source: Target, targets: Sequence[Target], images: ImageSet, config: TransferConfig) -> dict[str, Any]:
    """Attack one model at every radius and show the attacked images to all models.

    Every image climbs to the last step, also where the source is wrong early: for images that shall fool others.
    """
    started = time.perf_counter()
    forwards = backwards = 0
    tried = []
    pixels, labels = images.pixels, images.labels
    for epsilon in config.epsilons:
        attacked = pgd(
            source.network, pixels, labels, epsilon=epsilon, steps=TRANSFER_STEPS, seed=config.seed,
            batch_size=config.batch_size, keep_going=True,
        )  # fmt: skip
        evaluated = [
            evaluate_images(target.network, pixels, attacked.images, labels, "linf", config.batch_size)
            for target in targets
        ]
        tried.append({"epsilon": epsilon, "right": [[int(right) for right in one.robust] for one in evaluated]})
        forwards, backwards = forwards + attacked.forwards, backwards + attacked.backwards
    seconds = round(time.perf_counter() - started, 2)
    return {"tried": tried, "forwards": forwards, "backwards": backwards, "seconds": seconds}
