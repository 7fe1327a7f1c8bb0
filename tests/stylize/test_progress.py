import io

import pytest
from rich.console import Console

from stylize.progress import images_progress


def shown(flops: int) -> str:
    file = io.StringIO()
    with images_progress(Console(file=file, width=200), "Stylizing", 12, flops) as report:
        report(4)
        report(8)
    return file.getvalue()


def test_progress_counts_images_and_names_the_pace() -> None:
    text = shown(flops=10**9)
    assert "12/12" in text
    assert "images/s" in text
    assert "GFLOP/s" in text
    assert "GFLOP/s" not in shown(flops=0)


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylize.progress.PLAIN_LINE_SECONDS", 0.0)
    lines = [line for line in shown(flops=0).splitlines() if "min left" in line]
    assert [line.split(",")[0] for line in lines] == ["Stylizing: 4/12", "Stylizing: 12/12"]
