"""Adversarial images of each model tried on every other."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial as call_later
from pathlib import Path
from typing import Any

from attack.attacks import AttackResult
from attack.attacks.pgd import pgd
from attack.evaluation import TransferConfig, with_batch_size
from attack.evaluation.result import Partial, Result, check_output, encode_result, folder_name
from attack.evaluation.run import evaluate_images
from attack.evaluation.suite import STEPS
from attack.evaluation.target import ImageSet, Target, choose_images, load_image_set, open_model, without_tf32
from stylize.console import InputError, Show, silent
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
        paths = [str(model["path"]) for model in self.document["models"]]
        names = [folder_name(path) for path in paths]
        return names if len(set(names)) == len(names) else paths


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
    images = transfer.document["images"]
    pixels = images.get("sha256", result.pixels_sha256) or result.pixels_sha256
    if tuple(images["keys"]) != result.keys or (result.pixels_sha256 and pixels != result.pixels_sha256):
        raise InputError(f"{transfer.path} was made on other images than {result.path}: give both the same options.")
    target, n = transfer.digests.index(result.document["model"]["sha256"]), len(result.clean)
    found = []
    for number, (source, name) in enumerate(zip(transfer.document["sources"], transfer.names, strict=True)):
        for tried in source["tried"] if number != target else ():
            right, epsilon = tried["right"][target], float(tried["epsilon"])
            robust = tuple(bool(one) and clean for one, clean in zip(right, result.clean, strict=True))
            moved = (epsilon,) * n
            found.append(AttackResult(f"transfer:{name}", "transfer", "linf", epsilon, robust, moved, n, 0, 0.0))
    return found


TRANSFER_STEPS = STEPS["quick"]


def attack_transfer(
    models: Sequence[Path],
    shards: Path,
    out: Path,
    config: TransferConfig = TransferConfig(),  # noqa: B008 (frozen)
    *,
    progress: Show = silent,
) -> dict[str, Any]:
    """Attack each model by PGD, show the images to every other model, write to `out` who withstood them, and return it.

    The settings must be those of the models' results, so that `attack report` can take the transfers in. Finished
    sources are kept beside `out` until the end. Raises `InputError` where a model is given twice, models see images of
    different sizes, or a file is missing or damaged.
    """
    check_output(out)
    targets = [open_model(path, shards) for path in models]
    for index, (path, target) in enumerate(zip(models, targets, strict=True)):
        if twice := [models[i] for i in range(index) if targets[i].sha256 == target.sha256]:
            raise InputError(f"{twice[0]} and {path} are the same model: give each once.")
        if target.sees != targets[0].sees:
            raise InputError(
                f"{models[0]} sees images of {targets[0].sees[0]} pixels and {path} of {target.sees[0]} by other "
                "presets: try transfer among models that see the same images."
            )
    config = with_batch_size(config, targets[0].card.image_size)
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
        "images": {"keys": list(keys), "labels": images.labels.tolist(), "sha256": images.sha256},
        "protocol": {
            "seed": config.seed, "epsilons": config.epsilons, "batch_size": config.batch_size, "attack": "pgd",
            "loss": "ce", "steps": TRANSFER_STEPS,
        },
        "sources": sources,
        **describe_environment(targets[0].device),
    }  # fmt: skip
    write_atomically(out, encode_result(document))
    partial.remove()
    return document


def _try(source: Target, targets: Sequence[Target], images: ImageSet, config: TransferConfig) -> dict[str, Any]:
    """Attack one model at every radius and show the attacked images to all models.

    Every image climbs to the last step, also where the source is wrong early: for images that shall fool others.
    """
    started, pixels, labels = time.perf_counter(), images.pixels, images.labels
    forwards = backwards = 0
    tried = []
    for epsilon in config.epsilons:
        attacked = pgd(
            source.network, pixels, labels, epsilon=epsilon, steps=TRANSFER_STEPS, seed=config.seed,
            batch_size=config.batch_size, keep_going=True,
        )  # fmt: skip
        evaluated = [
            evaluate_images(target.network, pixels, attacked.images, labels, "linf", config.batch_size).robust
            for target in targets
        ]
        tried.append({"epsilon": epsilon, "right": [list(map(int, robust)) for robust in evaluated]})
        forwards, backwards = forwards + attacked.forwards, backwards + attacked.backwards
    seconds = round(time.perf_counter() - started, 2)
    return {"tried": tried, "forwards": forwards, "backwards": backwards, "seconds": seconds}
