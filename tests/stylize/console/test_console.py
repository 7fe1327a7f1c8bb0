import io
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from stylize.console import InputError, LiteralConsole, command_app, counted, literal, run_command_line


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


TRICKS = ("\x1b[31mred", "two\nError: lines", "\u202egnp.exe", "byte\udcff", "\x9b2J")
PLAIN = ("[red]x[/]", ":smile:", "$x^{y$", "it's", "{0}")


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    with io.StringIO() as file:
        yield file


@pytest.mark.parametrize("name", [*TRICKS, *PLAIN])
def test_names_are_literal_in_lines_tables_texts_and_progress(output: io.StringIO, name: str) -> None:
    shown = LiteralConsole(file=output, width=200, color_system="truecolor", force_terminal=True, highlight=False)
    table = Table(name, title=name)
    table.add_row(name)
    shown.print(name)
    shown.print(table, style="red")
    shown.print(Text(name.replace("\n", " ")))
    with Progress(TextColumn("{task.description}", markup=False), console=shown, transient=True) as progress:
        progress.add_task(name)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())  # Rich's own
    assert text.count(literal(name)) >= 4
    assert not set(text.replace("\n", "").replace("\r", "")) - {letter for letter in text if letter.isprintable()}
    assert "\x1b[31mred" not in output.getvalue()


@pytest.mark.parametrize("name", [name for name in (*TRICKS, *PLAIN) if "\udcff" not in name])
def test_errors_warnings_and_wrong_options_are_one_literal_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert end(monkeypatch, application(InputError(f"{name} is bad."))) == 2
    assert capsys.readouterr().err == f"Error: {literal(name)} is bad.\n"
    app = command_app("Does nothing.")
    app.command()(warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert end(monkeypatch, app, "warn", name) == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"Warning: {literal(name)} looks odd (UserWarning, ")
    assert shown.count("\n") == 1
    assert end(monkeypatch, app, "warn", "x", f"--{name}") == 2
    shown = capsys.readouterr().err.replace(r"\x0a", r"\n")  # as newer versions of Click escape it themselves
    assert shown.endswith(f"\nError: No such option: --{literal(name)}\n")


def test_a_word_that_is_not_utf_8_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = command_app("Does nothing.")
    app.command()(warn)
    assert end(monkeypatch, app, "warn", os.fsdecode(b"caf\xe9")) == 2
    assert capsys.readouterr().err == "Error: 'caf\\udce9' is not UTF-8: rename the file or folder.\n"


def warn(name: str) -> None:
    warnings.warn(f"{name} looks odd", stacklevel=1)


def end(monkeypatch: pytest.MonkeyPatch, app: typer.Typer, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["program", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            run_command_line(app)
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(caught.value.code or 0)


PROGRAM = r"""
import sys
from rich.table import Table
from stylize.console import command_app, console, run_command_line
app = command_app("Prints.")
@app.command()
def show(lines: int, code: int = 0):
    table = Table("L\u221e", title="\u00b1 \u65e5\u672c")
    table.add_row("\u2026", "\U0001f3a8 na\u00efve")
    console.print(table)
    for number in range(lines):
        console.print(f"{number}: L\u221e \u00b1 \u2026 \u65e5\u672c \U0001f3a8")
    sys.exit(code)
run_command_line(app)
"""


def show(
    lines: int, code: int, read: int | None = None, environment: Mapping[str, str] = {}
) -> tuple[int, bytes, bytes]:
    """Run the program and close its output after `read` bytes (None: read it all)."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, "show", str(lines), "--code", str(code)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
    )
    assert process.stdout
    assert process.stderr
    out = process.stdout.read() if read is None else process.stdout.read(read)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    return process.wait(), out, error


@pytest.mark.parametrize(
    ("encoding", "code"),
    [("latin-1", 0), ("ascii", 3), ("cp1252", 0), ("utf-8", 0), ("utf-8", 3), ("koi8-r", 3), ("shift_jis", 0)],
)
def test_any_encoding_ends_with_the_work_s_own_code(encoding: str, code: int) -> None:
    ended, out, error = show(2, code, environment={"PYTHONIOENCODING": encoding})
    assert (ended, error) == (code, b"")
    assert out.decode(encoding).count("\n") > 5


def test_the_c_locale() -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert show(2, 0, environment=plain)[::2] == (0, b"")


@pytest.mark.parametrize("code", [0, 3])
def test_a_reader_that_leaves_does_not_end_the_work(code: int) -> None:
    assert show(5_000, code, read=100)[::2] == (code, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("code", [0, 3])
def test_a_full_disk_behind_the_output_does_not_end_the_work(code: int) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, "show", "300", "--code", str(code)]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == code
    assert ended.returncode == code
    assert ended.stderr.count(b"\n") == 1
    assert b"No space left on device" in ended.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_output_does_not_end_the_work_nor_lend_its_number_to_a_file(tmp_path: Path, closed: str) -> None:
    program = PROGRAM.replace("    sys.exit", "    open('made', 'w').write('whole')\n    sys.exit")
    command = f'exec "{sys.executable}" -c "$PROGRAM" show 200 {closed}>&-'
    ended = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env={**os.environ, "PROGRAM": program, "PYTHONPATH": str(Path.cwd())},
        capture_output=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, (tmp_path / "made").read_text()) == (0, "whole")
    assert ended.stderr == b""


ESCAPED = {
    "esc\x1b[31mred": r"esc\x1b[31mred",
    "two\nlines\r": r"two\nlines\r",
    "\x9b31mred\x07": r"\x9b31mred\x07",
    "cod\u202egnp.exe": r"cod\u202egnp.exe",
    "a\u2066b\u200bc\ufeff": r"a\u2066b\u200bc\ufeff",
    "line\u2028break": r"line\u2028break",
    "byte\udcff": r"byte\udcff",
    "tab\tnul\0": r"tab\tnul\x00",
}
PRINTED = (
    "it's",
    "[red]x[/red]",
    "$x^{y$",
    ":smile:",
    "naïve",
    "日本語",
    "🎨",
    "a b",
    "back\\slash",
    "",
    "%s {0} <b>&amp;",
)


@pytest.mark.parametrize(("text", "shown"), ESCAPED.items())
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert literal(text) == shown
    assert shown.encode()
    assert shown.isprintable()
    assert literal(shown) == shown


@pytest.mark.parametrize("text", PRINTED)
def test_what_prints_stays(text: str) -> None:
    assert literal(text) == text


def test_counts_have_their_plural() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]
