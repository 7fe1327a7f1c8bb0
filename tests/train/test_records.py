"""What followers read, by their own readers."""

import csv
import json
from pathlib import Path

import pytest

from train.records import live_log, write_epochs

ROWS = [{"epoch": epoch, "training_loss": 1 / epoch, "validation_accuracy": 0.1 * epoch} for epoch in (1, 2, 3)]


def _follow(log: str, out: Path) -> None:
    """Show two epochs, and the third in a run that goes on."""
    with live_log(log, out, []) as report:
        for row in ROWS[:2]:
            report(row)
    with live_log(log, out, ROWS[:2]) as report:
        report(ROWS[2])


def test_an_epoch_may_lack_a_number(tmp_path: Path) -> None:
    write_epochs(tmp_path, [{"epoch": 1}, {"epoch": 2, "gflop_per_second": 3.5}])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["gflop_per_second"] for row in rows] == ["", "3.5"]


@pytest.mark.filterwarnings("ignore")  # DVCLive leaves files open
def test_dvclive(tmp_path: Path) -> None:
    pytest.importorskip("dvclive")
    _follow("dvclive", tmp_path)
    table = tmp_path / "live" / "plots" / "metrics" / "training_loss.tsv"
    rows = list(csv.DictReader(table.open(), delimiter="\t"))
    assert [(int(row["step"]), float(row["training_loss"])) for row in rows] == [(1, 1), (2, 0.5), (3, 1 / 3)]
    assert json.loads((tmp_path / "live" / "metrics.json").read_text())["validation_accuracy"] == pytest.approx(0.3)
    assert "metrics.json" in (tmp_path / "live" / "dvc.yaml").read_text()


@pytest.mark.filterwarnings("ignore")  # of TensorBoard's own packages
def test_tensorboard(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _follow("tensorboard", tmp_path)
    events = accumulators.EventAccumulator(str(tmp_path / "live"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("training_loss")}
    assert shown == pytest.approx({1: 1, 2: 0.5, 3: 1 / 3})


def test_nobody(tmp_path: Path) -> None:
    _follow("none", tmp_path)
    assert list(tmp_path.iterdir()) == []
