"""Runs that are stopped at random moments lose nothing that was finished and end as if nothing had happened."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.commands import PYTHON

PROGRAM = "import runpy; runpy.run_module('tests.stylize.jobs.fork_runs', run_name='__main__')"


def stopped_runs(commands: Path, folder: Path, signals: list[str]) -> list[dict[str, Any]]:
    seed = "1"  # an early moment first, so that one run at least is killed at work
    command = [str(commands / PYTHON), "-c", PROGRAM, str(folder), seed, *signals]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_stopped_runs_go_on_and_give_the_same_bytes(commands: Path, tmp_path: Path, kills: int) -> None:
    reports = stopped_runs(commands, tmp_path, ["SIGKILL"] * kills + ["SIGTERM", "SIGINT"])
    assert len(reports) == kills + 2
    for report in reports:
        assert report["half_written"] == report["made_again"] == [], report
        assert (report["rerun"], report["equal"]) == (0, True), report
        assert report["remains"] == [".gitignore", ".staging", "log", "out"], report
        if report["signal"] != "SIGKILL" and report["code"] != 0:
            assert (report["code"], report["left_over"]) == (130, []), report
            assert report["said"].endswith("Interrupted: run the same command to go on.\n"), report
    codes = {report["code"] for report in reports}
    assert {-9, 130} <= codes  # else every stop came too late
    assert any(0 < report["finished"] < 12 for report in reports)
