import os
import signal

import pytest
import typer

from stylize.command_line import run_command_line
from stylize.errors import InputError


def error_after_interruption() -> RuntimeError:
    error = RuntimeError("DataLoader worker is killed by signal: Terminated.")
    error.__context__ = KeyboardInterrupt()
    return error


def application(mistake: BaseException | None) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        if mistake is None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise mistake

    return app


@pytest.mark.parametrize(
    ("mistake", "code", "message"),
    [
        (InputError("--size is 3."), 2, "Error: --size is 3.\n"),
        (KeyboardInterrupt(), 130, "Interrupted: run the same command to go on.\n"),
        (None, 130, "Interrupted: run the same command to go on.\n"),
        (error_after_interruption(), 130, "Interrupted: run the same command to go on.\n"),
        (typer.Exit(1), 1, ""),
    ],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: BaseException | None,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            run_command_line(application(mistake))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (caught.value.code, capsys.readouterr().err) == (code, message)


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(ZeroDivisionError):
        run_command_line(application(ZeroDivisionError()))
