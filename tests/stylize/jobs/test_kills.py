"""Runs that are stopped at random moments lose nothing that was finished and end as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[3]


def stopped_runs(folder: Path, signals: list[str]) -> list[dict[str, Any]]:
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    seed = "1"  # an early moment first, so that one run at least is killed at work
    command = [sys.executable, str(Path(__file__).with_name("fork_runs.py")), str(folder), seed, *signals]
    process = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_stopped_runs_go_on_and_give_the_same_bytes(tmp_path: Path, kills: int) -> None:
    reports = stopped_runs(tmp_path, ["SIGKILL"] * kills + ["SIGTERM", "SIGINT"])
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
