"""No planted weakness passes for robustness, and honest models raise no alarm."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attack import AttackConfig
from attack.attacks import separate_copy
from stylize.console import InputError
from tests.attack.planted.honest import HONEST
from tests.attack.planted.networks import TEST
from tests.attack.planted.randomness import RANDOM, ROBUST_RANDOM
from tests.attack.planted.state import STATEFUL
from tests.attack.planted.table import BEGIN, END, PAGE, WORDS
from tests.attack.planted.zoo import BROKEN, EOT, QUICK, TRUTHS, build, judge

KNOWN_ALARMS: set[str] = set()  # honest models that a check still suspects: one at most
SMALL = replace(QUICK, images=24, epsilons=(8 / 255,), steps=10, step_size=1e-3, batch_size=24)
FULL = AttackConfig(suite="full", images=TEST, epsilons=(8 / 255,), steps=20, step_size=5e-4, batch_size=TEST)


def judged(names: Iterable[str]) -> list[Any]:
    """Return the names with the page's options, which are slow; before them every second one with fewer images."""
    small = [pytest.param(name, SMALL, id=name) for name in list(names)[::2]]
    return small + [pytest.param(name, QUICK, marks=pytest.mark.slow, id=f"{name}, as on the page") for name in names]


@pytest.fixture
def shown(config: AttackConfig, request: pytest.FixtureRequest) -> Path:
    """Return shards with all images, or with fewer for fewer attacks."""
    folder: Path = request.getfixturevalue("few_shards" if config == SMALL else "shards")
    return folder


@pytest.mark.parametrize(("name", "config"), judged(BROKEN))
def test_no_broken_model_is_missed(name: str, config: AttackConfig, shown: Path, tmp_path: Path) -> None:
    try:
        cells = judge(build(name, broken=True), shown, tmp_path / "result.json", config)
    except InputError:  # a model that attacks cannot be made on is refused, with the reason
        return
    assert not any(cell.missed() for cell in cells.values()), cells


@pytest.mark.parametrize(("name", "config"), judged(HONEST))
def test_honest_models_raise_no_alarm(name: str, config: AttackConfig, shown: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=False), shown, tmp_path / "result.json", config)
    assert any(cell.alarmed() for cell in cells.values()) == (name in KNOWN_ALARMS), cells


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ROBUST_RANDOM])
def test_honest_random_models_raise_no_alarm_by_their_mean(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=False), shards, tmp_path / "result.json", EOT)
    assert not any(cell.alarmed() for cell in cells.values()), cells


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in RANDOM])
def test_no_broken_random_model_is_missed_by_its_mean(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=True), shards, tmp_path / "result.json", EOT)
    assert not any(cell.missed() for cell in cells.values()), cells


@pytest.mark.parametrize("name", ["noise on the logits", "random ensemble"])
def test_the_mean_over_draws_tells_random_models_apart(name: str, few_shards: Path, tmp_path: Path) -> None:
    robust, broken = (
        judge(build(name, broken=one), few_shards, tmp_path / f"{one}.json", replace(SMALL, eot=4, steps=5))["8/255"]
        for one in (False, True)
    )
    assert (robust.word, broken.word) == ("inconclusive", "not robust")
    assert "repeatable" not in robust.failed


def test_one_alarm_at_most_among_enough_models() -> None:
    assert len(KNOWN_ALARMS) <= 1
    assert len(BROKEN) // 2 >= 40
    assert len(HONEST) // 2 >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", STATEFUL)
def test_no_model_with_state_holds(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=True), shards, tmp_path / "result.json", FULL)
    assert "holds" not in {cell.word for cell in cells.values()}, cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "logits times 5", "8-bit rounding, straight-through gradient"])
def test_an_honest_model_holds(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=False), shards, tmp_path / "result.json", FULL)
    assert {cell.word for cell in cells.values()} == {"holds"}, cells


def test_the_page_shows_this_zoo_without_a_miss() -> None:
    table = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    found = {(truth, int(models)) for truth, _, models, *_ in rows}
    assert found == {(truth, len(models)) for truth, (models, *_) in TRUTHS.items()}
    for _, _, _, *counts in rows:
        numbers = dict(zip(WORDS, counts, strict=True))
        assert (numbers["holds"], numbers["crash"]) == ("0", "0")


def test_a_memory_that_copies_share_is_no_separate_copy() -> None:
    with pytest.raises(ValueError, match="shares"):
        separate_copy(build("memory of classes, shared by copies", broken=True))


def test_a_memory_outside_the_network_is_not_asked_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build("no defence", broken=True), tmp_path / "network.pt")
    (tmp_path / "outside.py").write_text(
        "import torch\nfrom tests.attack.planted.state import MemoryOfTheClass\n"
        f"def network():\n return MemoryOfTheClass(torch.load({str(tmp_path / 'network.pt')!r}, weights_only=False))"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cells = judge("outside:network", shards, tmp_path / "result.json", SMALL)
    assert {cell.word for cell in cells.values()} == {"not robust"}
    assert all("a fresh copy answers alike" in cell.failed for cell in cells.values())
