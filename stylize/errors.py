"""The one exception for mistakes a user can mend, and how a command line shows it."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """What was wrong, where, and what to do, in one sentence; command lines exit with code 2."""


def run_command_line(app: Callable[[], None]) -> None:
    """Run a Typer application; an `InputError` becomes one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
