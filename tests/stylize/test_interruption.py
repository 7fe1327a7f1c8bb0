"""Ctrl-C and SIGTERM, above all while a command's modules load."""

import signal
import subprocess
import sys

import pytest

from stylize.interruption import answered_by

IMPORTS = """
import os, signal, weakref
from stylize.interruption import answered_in_one_line
class Module: pass
with answered_in_one_line():
    module = Module()
    watched = weakref.ref(module, lambda _: os.kill(os.getpid(), signal.{name}))
    del module  # the callback runs, and an exception in it would be ignored
    print("goes on")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_while_modules_load_is_not_swallowed(name: str) -> None:
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.{name}, signal.default_int_handler)"]
    command[-1] += IMPORTS.format(name=name)
    ended = subprocess.run(command, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, b"")
    assert ended.stderr == b"Interrupted: run the same command to go on.\n"


def test_nothing_large_is_imported_before_interruptions_are_answered() -> None:
    program = "import sys, stylize.interruption; print(*({'torch', 'typer', 'rich', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"\n"


def test_the_default_answer_counts_and_the_one_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with answered_by(signal.SIG_DFL):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    with answered_by(None):
        assert signal.getsignal(signal.SIGINT) is before
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as foreign code may do
    assert signal.getsignal(signal.SIGINT) is before
