"""What every command line shares: errors for people, one console, one display of progress, wording of messages."""

import io
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.segment import Segment
from rich.text import Text

from stylize.interruption import INTERRUPTED, INTERRUPTION

T = TypeVar("T")
DISTRIBUTION = "stylized-pairing"
PATIENCE = 600.0  # seconds for which a process waits for another that does nothing
NO_ANSWER = (
    f"A process that loads images has not answered for {PATIENCE / 60:.0f} minutes: look at the disk or share that it "
    "reads, and run again."
)
WIDEST = 1000  # columns: help is as wide as the terminal


class InputError(Exception):
    """What was wrong, where, and what to do, in one sentence; command lines exit with code 2."""


# In what PyTorch raises where a loader's process is gone or hangs.
_SIGNS_OF_DEATH = ("DataLoader worker", "DataLoader timed out", "ancdata")


def plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """Yield a data loader's batches; a worker's `InputError` loses the loader's traceback, its death is one too."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("stylize.console.InputError: ")[2].rstrip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _SIGNS_OF_DEATH):
            raise
        if "timed out" in str(error):
            raise InputError(NO_ANSWER) from None
        raise InputError(
            "A process that loads images was killed, as happens where memory runs out: lower --workers, and run again."
        ) from None


def literal(text: str) -> str:
    r"""Return a text with everything that does not print as itself escaped, as `repr` does: \x1b, \n, \u202e, \udcff.

    What stays can neither steer a terminal, nor begin a line, nor turn the text around it, nor fail to be encoded.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def option_name(field: str) -> str:
    """Return the command-line option of a setting that Python calls `field`: batch_size is --batch-size."""
    return "--lambda" if field == "pairing_weight" else f"--{field.replace('_', '-')}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return "1 image" or "2 images"; `things` is the plural where it is not the singular with an s."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


class LastingStream(io.TextIOWrapper):
    """An output that falls silent where its reader has left or its disk is full, so that the work goes on."""

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        try:
            return super().write(text)
        except OSError as error:
            self._fall_silent(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written, or nothing."""
        try:
            super().flush()
        except OSError as error:
            self._fall_silent(error)

    def _fall_silent(self, error: OSError) -> None:
        """Send what is still to be printed, and what waits in buffers, nowhere; say why, but for `| head -1`."""
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
        if not isinstance(error, BrokenPipeError) and self is not sys.stderr:
            print_error(f"Warning: the output cannot be written ({error.strerror}); the work goes on without it.")


def _lasting(stream: Any) -> Any:
    """Return a process's own output as a stream that lasts; another stream in its place, as in tests, stays."""
    if stream is None:  # closed: a file opened next would take its number, and get what is printed
        return open(os.devnull, "w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    if stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    raw = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115 - it lasts as long as the process
    return LastingStream(raw, stream.encoding, "replace", None, stream.line_buffering, stream.write_through)


class LiteralConsole(Console):
    """A console that shows names as they are, a string a line: no markup, emoji codes or control characters in them."""

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "soft_wrap": True}
        if "ipykernel" in sys.modules:  # which claims to be a terminal; plain lines are short in a saved notebook
            plain |= {"force_jupyter": False, "force_terminal": False}
        super().__init__(**{**plain, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as a renderable; everything that is printed as a string comes through here."""
        return super().render_str(literal(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of a renderable; texts that were none of our strings are made literal here."""
        for piece in super().render(renderable, options):
            text = "\n".join(literal(line) for line in piece.text.split("\n"))  # these breaks are the layout's
            yield piece if piece.control else piece._replace(text=text)


console = LiteralConsole()
_errors = LiteralConsole(stderr=True, highlight=False)


def print_error(line: str) -> None:
    """Print a line on standard error."""
    _errors.print(line)


def print_notice(sentence: str) -> None:
    """Print what a person should see although nothing failed."""
    console.print(sentence, style="yellow", highlight=False)


def command_app(description: str, program: str | None = None) -> typer.Typer:
    """Return an application for commands; it has subcommands even where there is one, and a program's has --version."""
    app = typer.Typer(
        name=program,
        help=description,
        no_args_is_help=True,
        add_completion=program is not None,
        context_settings={"max_content_width": WIDEST},
        rich_markup_mode=None,  # brackets in help texts are brackets
        pretty_exceptions_enable=False,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            console.print(f"{program} {version(DISTRIBUTION)}", highlight=False)
            raise typer.Exit

    option = typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")

    def program_options(version: Annotated[bool, option] = False) -> None: ...

    app.callback()(program_options if program else lambda: None)
    return app


def _is_interruption(error: BaseException | None) -> bool:
    """Tell whether an error is an interruption or followed one, as where the same signal stopped a worker process."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def run_command_line(app: typer.Typer) -> None:
    """Run an application and raise `SystemExit`; an `InputError` becomes one line on standard error and exit code 2.

    SIGTERM ends the work as Ctrl-C does: temporary files are removed and finished work is kept.  Output that cannot be
    written, say on a full disk, does not end it, and characters that it cannot encode are replaced.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    with warnings.catch_warnings():
        # A library's warning takes one line; its text may quote a name.
        warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: print_error(
            f"Warning: {message} ({category.__name__}, {filename}:{lineno})"
        )
        raise SystemExit(_run(app))


def _run(app: typer.Typer) -> int:
    try:
        for word in sys.argv:  # names that no result file could hold are refused before any work is done
            if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes of another encoding
                raise InputError(f"{word!r} is not UTF-8: rename the file or folder.")
        code = app(standalone_mode=False)
    except InputError as error:
        print_error(f"Error: {error}")
        return 2
    except BaseException as end:
        if _is_interruption(end):
            code = INTERRUPTED
        elif hasattr(end, "show") and hasattr(end, "format_message"):  # a wrong option, of no stable class of Typer's
            shown = io.StringIO()
            end.show(shown)
            message = f"Error: {end.format_message()}"
            for line in shown.getvalue().replace(message, literal(message)).split("\n")[:-1]:
                print_error(line)
            return 2
        else:
            raise
    if code == INTERRUPTED:
        print_error(INTERRUPTION)
    return code or 0


PLAIN_LINE_SECONDS = 30.0  # between the lines of a log
PACE_SECONDS = 30.0  # a pace is that of the last so many: shards of an earlier run are counted at once
BYTES = "bytes"
Show = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)
Report = Callable[[int], None]


def silent(*_: object) -> None:
    """Tell nobody: what functions call by default that report on their work."""


@dataclass(frozen=True)
class Effort:
    """What images cost: FLOPs for each of the first `stylized`, none for the others, and the machine's FLOP/s or 0."""

    flops_per_image: int
    stylized: int
    machine_rate: float = 0.0

    def describe(self, before: int, done: int, seconds: float) -> str:
        """Return the FLOP/s of the images from `before` to `done`, and their share of the machine's rate."""
        rate = (min(done, self.stylized) - min(before, self.stylized)) * self.flops_per_image / seconds
        if not rate:
            return ""
        share = min(1.0, rate / self.machine_rate) if self.machine_rate else 0  # fast kernels count more than they do
        return f", {rate / 1e9:.0f} GFLOP/s" + (f" ({share:.0%} of the machine's rate)" if share else "")


class _Pace:
    """When how much of a task was done: in the last seconds, and at least two times."""

    def __init__(self, unit: str, effort: Effort | None, now: float, done: int) -> None:
        self.unit, self.effort = unit, effort
        self.samples = deque([(now, done)])
        self.spoken = time.monotonic()
        self.state = self.said = ""  # now, and when a log got its last line

    def add(self, now: float, done: int) -> None:
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[1][0] >= PACE_SECONDS:
            self.samples.popleft()

    def describe(self, total: int) -> str:
        """Return how much is done, the pace and the time left."""
        (first, before), (last, done) = self.samples[0], self.samples[-1]
        seconds = max(last - first, 1e-9)
        pace = (done - before) / seconds
        if self.unit == BYTES:
            amount, speed = f"{done / 1e6:.1f}/{total / 1e6:.1f} MB", f", {pace / 1e6:.1f} MB/s"
        else:
            amount, speed = f"{done}/{total}", f", {pace:.1f} {self.unit}/s" if self.unit else ""
        effort = self.effort.describe(before, done, seconds) if self.effort else ""
        return f"{amount}{speed}{effort}" + (f", {(total - done) / pace / 60:.1f} min left" if pace else "")

    def is_due(self) -> bool:
        """Return whether a log should get its next line."""
        if time.monotonic() - self.spoken <= PLAIN_LINE_SECONDS:
            return False
        self.spoken, self.said = time.monotonic(), self.state
        return True


@contextmanager
def shown_progress(
    console: Console, unit: str = "images", effort: Effort | None = None, *, keep: bool = False
) -> Iterator[Show]:
    """Yield a function of (task, done, total) that shows how far each task is; it is called by one thread at a time.

    What follows a colon in a task's name changes within its line. The first call for a task says what was done before.
    The lines are removed in the end, unless `keep` and something was done without an error.
    """
    columns = BarColumn(), TextColumn("{task.description}", markup=False)
    paces: dict[str, _Pace] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        lines = {}

        def show(task: str, done: int, total: int) -> None:
            kind, done, now = task.partition(":")[0], min(done, total), console.get_time()
            if kind not in paces:
                paces[kind] = _Pace(unit, effort, now, done)
                lines[kind] = display.add_task(task, total=total, completed=done)
                return
            paces[kind].add(now, done)
            paces[kind].state = f"{task}: {paces[kind].describe(total)}"
            display.update(lines[kind], description=paces[kind].state, completed=done, total=total)
            if not console.is_terminal and paces[kind].is_due():
                console.print(paces[kind].state)

        yield show
        kept = [pace for pace in paces.values() if keep and pace.samples[-1][1]]
        display.live.transient = not kept
    for pace in kept:
        if not console.is_terminal and pace.state != pace.said:
            console.print(pace.state)


@contextmanager
def counted_progress(
    console: Console, task: str, total: int, unit: str = "images", effort: Effort | None = None
) -> Iterator[Report]:
    """Show one task and yield a function that receives how much more of it is done, from one thread at a time."""
    done = 0
    with shown_progress(console, unit, effort, keep=True) as show:

        def report(more: int) -> None:
            nonlocal done
            done += more
            show(task, done, total)

        report(0)
        yield report
