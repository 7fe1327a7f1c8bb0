"""What result files of earlier versions say, and what is refused."""

import copy
import json
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from attack.evaluation.result import metrics, read_result
from attack.report.build import write_report
from attack.report.groups import group_results
from attack.report.page import attack_table, check_tables, verdict_table
from stylize.console import InputError

Maker = Callable[..., Path]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every part of a JSON value; of lists, of the first item."""
    if place:
        yield place
    for name in value if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ():
        yield from places(value[name], (*place, name))


def test_no_damage_gets_past_reading(make_shard_folder: Maker, make_result: Maker, tmp_path: Path) -> None:
    """Put other values at every place of a result, as another person's may have them: refused, or shown."""
    whole = json.loads(make_result(make_shard_folder(test=6), "normal", images=3, steps=2, epsilons=(0.1,)).read_text())
    path, refused = tmp_path / "r.json", 0
    for place in list(places(whole)):
        for wrong in (None, -1, 0, [["a"]]):
            document = copy.deepcopy(whole)
            reduce(getitem, place[:-1], document)[place[-1]] = wrong
            path.write_text(json.dumps(document))
            try:
                (group,) = group_results([read_result(path)])
            except InputError:
                refused += 1
                continue
            metrics(group.entries[0].result)
            for table in (verdict_table(group), attack_table(group.entries[0]), *check_tables(group, group.entries[0])):
                assert table.header
    assert refused > 200


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
