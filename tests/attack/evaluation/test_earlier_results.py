"""Results of version 1 are read as what they knew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attack.evaluation.result import read_result
from attack.report.build import write_report
from stylize.console import InputError

Earlier = Callable[..., dict[str, Any]]


def test_version_1_says_what_it_knew_and_that_it_did_not_count_wrong_images(tmp_path: Path, earlier: Earlier) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(earlier([[1, 0, 0], [1, 1, 0], [1, 1, 1]] * 40)))
    result = read_result(path)
    assert result.document["clean"] == {"accuracy": 0.75, "correct": 30, "images": 40}
    assert result.records.correct.shape == (120, 3)
    assert result.attacks[0].distance[:2] == (0.01, 0.02)
    assert sum(result.attacks[0].robust) == 40
    assert result.verdict.word == "inconclusive"
    assert [check.name for check in result.checks if not check.passed] == ["wrong images are counted"]
    assert "s_$x^{y$" in write_report([path], tmp_path / "report").read_text()
    assert list((tmp_path / "report" / "figures").glob("*.svg"))


def test_a_damaged_version_1_is_refused(tmp_path: Path, earlier: Earlier) -> None:
    whole = earlier([[1, 0]])
    for missing in ("records", "clean", "model", "protocol"):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != missing}))
        with pytest.raises(InputError, match=rf"damaged result .*{missing}"):
            read_result(path)
