import io

import pytest
from rich.console import Console

from stylize.console import BYTES, PACE_SECONDS, Effort, counted_progress, shown_progress

Steps = list[tuple[float, int]]  # seconds and images of one report
STEPS: Steps = [(1.0, 2), (1.0, 4), (2.0, 6)]


def shown(steps: Steps, effort: Effort | None = None) -> str:
    """Return what is printed while images, twelve in all, are reported at the given times."""
    now = 0.0

    def clock() -> float:
        return now

    file = io.StringIO()
    with counted_progress(Console(file=file, width=200, get_time=clock), "Stylizing", 12, effort=effort) as report:
        for seconds, images in steps:
            now += seconds
            report(images)
    return file.getvalue()


def test_progress_counts_images_and_names_the_pace() -> None:
    text = shown(STEPS)
    assert "12/12" in text
    assert "3.0 images/s, 0.0 min left" in text
    assert "FLOP" not in text


def test_only_stylized_images_count_as_work() -> None:
    assert "3.0 images/s, 2 GFLOP/s, 0.0 min left" in shown(STEPS, Effort(10**9, stylized=8))
    assert "2 GFLOP/s (50% of the machine's rate)" in shown(STEPS, Effort(10**9, stylized=8, machine_rate=4e9))
    late = [(PACE_SECONDS, 8), (1.0, 1), (PACE_SECONDS, 2), (1.0, 1)]
    assert "FLOP" not in shown(late, Effort(10**9, stylized=8, machine_rate=4e9))


def plain_lines(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("stylize.console.PLAIN_LINE_SECONDS", 0.0)
    return [line for line in shown(steps).splitlines() if "images/s" in line and line.startswith("Stylizing:")]


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_lines([(1.0, 4), (3.0, 2)], monkeypatch) == [
        "Stylizing: 4/12, 4.0 images/s, 0.0 min left",
        "Stylizing: 6/12, 1.5 images/s, 0.1 min left",
    ]


def test_slow_reports_have_a_pace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(2 * PACE_SECONDS, 3), (2 * PACE_SECONDS, 6)]
    assert plain_lines(steps, monkeypatch) == [
        "Stylizing: 3/12, 0.1 images/s, 3.0 min left",
        "Stylizing: 9/12, 0.1 images/s, 0.5 min left",
    ]


def test_shards_of_an_earlier_run_do_not_count_as_pace_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = plain_lines([(0.0, 3), (0.0, 3), (PACE_SECONDS, 2), (PACE_SECONDS, 3)], monkeypatch)
    assert lines[-1] == "Stylizing: 11/12, 0.1 images/s, 0.2 min left"


def test_nothing_goes_beyond_100_percent() -> None:
    assert "4 GFLOP/s (100% of the machine's rate)" in shown(STEPS, Effort(2 * 10**9, stylized=8, machine_rate=1e9))
    assert "12/12" in shown([*STEPS, (1.0, 5)])


@pytest.mark.parametrize("terminal", [False, True])
def test_bytes_and_stages_are_shown_by_the_same_display(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylize.console.PLAIN_LINE_SECONDS", 0.0)
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=terminal)
    with counted_progress(console, "Uploading", 5_000_000, BYTES) as report:
        report(6_000_000)
    with shown_progress(console, unit="") as show:
        for done in range(3):
            show(f"attacks: pgd {done}", done, 2)
    assert "Uploading: 5.0/5.0 MB, " in file.getvalue()
    assert "attacks: pgd 2: 2/2" in file.getvalue()
    assert ("\x1b" in file.getvalue()) == terminal


def test_names_in_progress_are_no_markup() -> None:
    file = io.StringIO()
    with counted_progress(Console(file=file, width=200, force_terminal=True), "[/odd]", 1) as report:
        report(1)
    assert "[/odd]: 1/1" in file.getvalue()
