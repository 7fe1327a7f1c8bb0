"""What result files of earlier versions say, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack.evaluation.result import metrics, read_result
from attack.report.build import write_report


def test_version_2_had_one_verdict(tmp_path: Path, earlier: Callable[..., dict[str, Any]]) -> None:
    path = tmp_path / "r.json"
    document = earlier([[1, 0, 0], [1, 1, 0], [1, 1, 1]] * 40)
    path.write_text(json.dumps(document))
    result = read_result(path)
    assert result.records.correct.shape == (120, 3)
    assert result.attacks[0].distance[:2] == (0.01, 0.02)
    assert sum(result.attacks[0].robust) == 40
    assert [verdict.word for verdict in result.verdicts] == ["inconclusive"]
    assert metrics(result) == {"verdict": "inconclusive", "clean": 0.75}
    pgd = {**document["attempts"][0], "name": "pgd-ce", "kind": "white-box", "epsilon": 8 / 255}
    pgd |= {"robust": [0] * 120, "distance": [8 / 255] * 120}
    document["attempts"].append(pgd)
    path.write_text(json.dumps(document))
    result = read_result(path)
    assert [(verdict.word, verdict.epsilon) for verdict in result.verdicts] == [("not robust", 8 / 255)]
    assert "a fresh copy answers alike" not in {check.name for check in result.checks}
    assert "s_$x^{y$" in write_report([path], tmp_path / "report").read_text()
