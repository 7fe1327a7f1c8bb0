"""The commands `stylize`, `train`, `attack` and `dvc` without their start, which is most of their time on few images.

A process imports their libraries once and forks itself for every command. Stand-ins for the installed commands, to come
first on the path, hand it their words, folder, environment and streams, and end with the exit code that it sends back,
or killed where none comes. `forked-python -c CODE …` runs a program in the same way.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).parents[1]
MAIN = {"stylize": "stylize.__main__", "train": "train.__main__", "attack": "attack.__main__", "dvc": "dvc.cli"}
LIBRARIES = (
    *("stylize.cli.main", "stylize.jobs.run", "train.cli", "train.run", "attack.cli", "attack.evaluation.run"),
    *("attack.evaluation.transfer", "attack.report.build", "torch._dynamo"),
    *("dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.cli.parser", "dvc.parsing", "dvc_data.index"),
)
STAND_IN = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.path.join(os.path.dirname(sys.argv[0]), "socket"))
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(4)
sys.exit(int(code)) if code else os.kill(os.getpid(), 9)
"""
PYTHON = "forked-python"


@contextmanager
def stand_ins(folder: Path) -> Iterator[None]:
    """Keep the process that runs the commands, and their stand-ins in a folder."""
    for name in (*MAIN, PYTHON):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    command = [sys.executable, "-c", f"from tests.commands import serve; serve({str(folder / 'socket')!r})"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE) as server:  # its stdin's end ends it
        while not (folder / "socket").exists():
            assert server.poll() is None, "the process that runs the commands has ended"
            time.sleep(0.05)
        yield


def serve(address: str) -> None:
    """Fork for every connection until the end of stdin."""
    for name in (*MAIN.values(), *LIBRARIES):
        import_module(name)
    processes = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}-soon")
        listener.listen()
        Path(f"{address}-soon").rename(address)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            with listener.accept()[0] as connection:
                processes.append(os.fork())
                if processes[-1] == 0:
                    _answer(connection)
    for process in processes:
        os.waitpid(process, 0)


def _answer(connection: socket.socket) -> None:
    """Do as a stand-in asks in a process group of its own, and end."""
    os.setsid()
    for number, stream in enumerate(socket.recv_fds(connection, 1, 3)[1]):
        os.dup2(stream, number)
        os.close(stream)
    with connection.makefile() as request:
        sys.argv, folder, environment = json.load(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: str | int | None
    try:
        code = _run(Path(sys.argv[0]).name)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(int(code or 0)).encode())
    os._exit(0)


def _run(name: str) -> int | None:
    if name == PYTHON:
        program, sys.argv = sys.argv[2], ["-c", *sys.argv[3:]]
        exec(program, vars(sys.modules["__main__"]))
        return 0
    sys.path[0] = str(Path(sys.executable).parent)
    code: int | None = import_module(MAIN[name]).main()
    return code
