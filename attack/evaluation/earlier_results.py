"""Result files of version 1, which knew the paper's path alone, as documents of version 2."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from attack.attacks.attempt import Attempt
from attack.checks.check import Check
from attack.evaluation.documents import attempt_document
from attack.evaluation.judgement import conclude
from attack.evaluation.walk import path_attempt

UNKNOWN = Check(
    "wrong images are counted",
    passed=False,
    detail="a result of version 1 names only images that the model classifies correctly",
    meaning="Accuracies under attack are of images that the model gets right as they are, and models met different "
    "ones. Attack it again for numbers that can be compared.",
)


def upgrade_result(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of version 2 that says what one of version 1 knew; raise `KeyError` where it is damaged.

    Its images are those that walked, all of them classified correctly; the failed check `UNKNOWN` keeps the verdict
    from resting on them.
    """
    records = document["records"]
    keys, clean = [record["key"] for record in records], [True] * len(records)
    path = _path(document)
    checks = [Check(**check) for check in document["checks"]]
    attempts: list[Attempt] = [path_attempt(keys, clean, path)]
    classes = len(document["model"]["card"]["class_names"])
    found, verdict = conclude(clean, attempts, [*checks, UNKNOWN], classes)
    accuracy, images = document["clean"]["accuracy"], document["clean"]["images"]
    return {
        **{name: document[name] for name in ("model", "shards", "versions", "hardware", "seconds")},
        "format_version": 2,
        "protocol": _protocol(document["protocol"], len(records)),
        "clean": {"accuracy": accuracy, "correct": round(accuracy * images), "images": images},
        "images": {"keys": keys, "labels": [record["label"] for record in records], "correct": [1] * len(records)},
        "verdict": asdict(verdict),
        "path": path,
        "attempts": [attempt_document(attempt) for attempt in attempts],
        "checks": [asdict(check) for check in found],
        "forwards": path["forwards"],
        "backwards": path["backwards"],
    }


def _protocol(asked: Mapping[str, Any], images: int) -> dict[str, Any]:
    numbers = {"batch_size": asked["batch_size"], "seed": asked["seed"]}
    return {"suite": "paper", "images": images, "strong_images": 0, "epsilons": [], **numbers}


def _path(document: Mapping[str, Any]) -> dict[str, Any]:
    passes = sum(len(record["correct"]) for record in document["records"])
    return {
        **{name: document["protocol"][name] for name in ("steps", "step_size", "zero_gradient")},
        "images": len(document["records"]),
        "forwards": passes,
        "backwards": passes,
        "seconds": document["seconds"],
        "loss": document["loss"],
        "records": document["records"],
    }
