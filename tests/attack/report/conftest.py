"""Reports whose figures are not encoded."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode no figure, for a test that reads words and numbers alone; others look at such figures."""
    monkeypatch.setattr("attack.report.build.figure_bytes", lambda figure, kind: b"")
    monkeypatch.setattr("attack.report.figures.figure_bytes", lambda figure, kind: b"<svg></svg>")
