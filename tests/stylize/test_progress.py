import io
from collections.abc import Callable

import pytest
from rich.console import Console

from stylize.progress import PACE_SECONDS, images_progress

Steps = list[tuple[float, int]]  # seconds and images of one report


def shown(steps: Steps, machine_rate: float = 0.0) -> str:
    """Return what is printed while images are reported at the given times, of 12 images of 1 GFLOP each."""
    now = 0.0

    def clock() -> float:
        return now

    file = io.StringIO()
    console = Console(file=file, width=200, get_time=clock)
    with images_progress(console, "Stylizing", 12, 10**9, machine_rate) as report:
        for seconds, images in steps:
            now += seconds
            report(images)
    return file.getvalue()


def test_progress_counts_images_and_names_the_pace() -> None:
    text = shown([(1.0, 2), (2.0, 4), (2.0, 6)])
    assert "12/12" in text
    assert "2.5 images/s" in text  # ten images in the four seconds after the first report
    assert "machine" not in text


def test_the_machines_rate_is_what_images_are_compared_with() -> None:
    assert "2.5 images/s, 50% of the machine's rate" in shown([(1.0, 2), (2.0, 4), (2.0, 6)], machine_rate=5e9)


@pytest.fixture
def plain_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Steps], list[str]]:
    monkeypatch.setattr("stylize.progress.PLAIN_LINE_SECONDS", 0.0)
    return lambda steps: [line for line in shown(steps).splitlines() if "min left" in line]


def test_a_log_gets_plain_lines(plain_lines: Callable[[Steps], list[str]]) -> None:
    lines = plain_lines([(1.0, 4), (1.0, 2), (2.0, 2)])
    assert lines == ["Stylizing: 6/12, 2.0 images/s, 0.1 min left", "Stylizing: 8/12, 1.3 images/s, 0.1 min left"]


def test_shards_of_an_earlier_run_do_not_count_as_pace_for_long(plain_lines: Callable[[Steps], list[str]]) -> None:
    lines = plain_lines([(0.0, 3), (0.0, 3), (PACE_SECONDS + 1, 1), (1.0, 1)])
    assert lines[-1] == "Stylizing: 8/12, 1.0 images/s, 0.1 min left"
