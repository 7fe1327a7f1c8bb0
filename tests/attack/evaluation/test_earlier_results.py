"""Results of version 1 are read as what they knew."""

import json
from pathlib import Path
from typing import Any

import pytest

from attack.evaluation.results import read_result
from attack.report.build import write_report
from stylize.errors import InputError

CARD = {"arch": "resnet18", "method": "pairing", "class_names": ["a", "b"], "image_size": 32, "seed": 0}


def earlier(correct: list[list[int]]) -> dict[str, Any]:
    """A document as `attack run` wrote it in format version 1, of images that moved 0.01 in L∞ a step."""
    linf = [step / 100 for step in range(len(correct[0]))]
    records = [
        {"key": f"{key:08}", "label": key % 2, "correct": row, "l2": [far * 5 for far in linf], "linf": linf}
        for key, row in enumerate(correct)
    ]
    protocol = {"attack": "fgsm-path", "images": len(correct), "steps": len(linf) - 1, "step_size": 0.01}
    return {
        "format_version": 1,
        "model": {
            "path": "m/model.safetensors",
            "sha256": "1" * 64,
            "card": {**CARD, "shards_sha256": "2" * 64, "config": {}},
        },
        "shards": {"path": "s_$x^{y$", "name": "s_$x^{y$", "manifest_sha256": "2" * 64, "used_in_training": True},
        "protocol": {**protocol, "zero_gradient": "stay", "batch_size": 25, "seed": 0, "interpolators": {}},
        "clean": {"accuracy": 0.75, "standard_error": 0.1, "images": 40},
        "candidates": {"walked": 9, "used": len(correct)},
        "checks": [{"name": "eval mode", "passed": True, "detail": "0 of 9 modules in training mode"}],
        "loss": [0.1 * step for step in range(len(linf))],
        "curves": [],
        "records": records,
        "versions": {"python": "3.11.7"},
        "hardware": {"cpu": "a processor", "threads": 2, "device": "cpu"},
        "seconds": 23.0,
    }


def test_version_1_says_what_it_knew_and_that_it_did_not_count_wrong_images(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(earlier([[1, 0, 0], [1, 1, 0], [1, 1, 1]] * 40)))
    result = read_result(path)
    assert result.document["clean"] == {"accuracy": 0.75, "correct": 30, "images": 40}
    assert result.records.correct.shape == (120, 3)
    assert result.attempts[0].distance[:2] == (0.01, 0.02)
    assert sum(result.attempts[0].robust) == 40
    assert result.verdict.word == "inconclusive"
    assert [check.name for check in result.checks if not check.passed] == ["wrong images are counted"]
    assert "s_$x^{y$" in write_report([path], tmp_path / "report").read_text()
    assert list((tmp_path / "report" / "figures").glob("*.svg"))


def test_a_damaged_version_1_is_refused(tmp_path: Path) -> None:
    whole = earlier([[1, 0]])
    for missing in ("records", "clean", "model", "protocol"):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != missing}))
        with pytest.raises(InputError, match=rf"damaged result .*{missing}"):
            read_result(path)
