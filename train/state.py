"""The state of a training run: saved so that an interrupted run goes on exactly where it was."""

import csv
import fcntl
import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from stylize.console import InputError, option_name
from stylize.files import UNREADABLE, why_unreadable, write_atomically
from train.checkpoint import read_card
from train.distributed import World

MODEL_NAME, STATE_NAME = "model.safetensors", "state.pt"
METRICS_NAME, EPOCHS_NAME, RECORD_NAME = "metrics.json", "metrics.csv", "record.json"
_FORMAT = b"stylized-pairing state 1\n"
_HEADER_LENGTH = len(_FORMAT) + 65


@dataclass
class Progress:
    """Everything that a run needs to continue exactly: random numbers depend on (seed, epoch, step) and are not state.

    `epoch` and `step` say which step comes next; after an epoch's last step comes its evaluation.  `loss_sums`,
    `epoch_seconds` and, without evaluation, `training_seconds` are of the unfinished epoch, `seconds` of all the run.
    `rows` are the epochs' metrics; `best_model` is the state dict of the epoch with the best validation accuracy.
    """

    epoch: int = 0
    step: int = 0
    loss_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    training_seconds: float = 0.0
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_model: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass
class SavedState:
    """A stopped run: its identity (all settings that change results), progress, and the states to load."""

    identity: dict[str, Any]
    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]


def make_folder(out: Path) -> None:
    """Make a run's folder; raises `InputError` where that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The output folder {out} cannot be made ({error.strerror}): choose another.") from None


@contextmanager
def locked_folder(out: Path, world: World) -> Iterator[None]:
    """Keep other runs out of a run's folder while it works there; raises `InputError` where one is at work."""
    folder = os.open(out, os.O_RDONLY)
    try:
        if world.any(world.is_main and not _lock(folder)):
            raise InputError(f"Another run is at work in {out}: wait for it to end, or choose another output folder.")
        yield
    finally:
        os.close(folder)


def _lock(folder: int) -> bool:
    """Lock an open folder; return whether no other process has. A file system without locks keeps nobody out."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def save_state(out: Path, state: SavedState) -> None:
    """Write `state.pt` atomically: a line with the SHA-256 of the rest, then a form that loads without running code."""
    buffer = io.BytesIO()
    torch.save({**vars(state), "progress": vars(state.progress)}, buffer)
    payload = buffer.getbuffer()
    write_atomically(out / STATE_NAME, b"".join((_header(payload), payload)))


def load_state(out: Path, identity: Mapping[str, Any]) -> SavedState | None:
    """Return the state to continue from, None where there is none.

    Raises `InputError` where it is damaged, was not written by `save_state`, or is another run's.
    """
    path = out / STATE_NAME
    if not path.exists():
        return None
    try:
        written = path.read_bytes()
        payload = memoryview(written)[_HEADER_LENGTH:]
        if written[:_HEADER_LENGTH] != _header(payload):
            raise ValueError("it differs from its checksum")
        loaded = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        progress = Progress(**{item.name: loaded["progress"][item.name] for item in fields(Progress)})
        state = SavedState(loaded["identity"], progress, loaded["model"], loaded["optimizer"], loaded["average"])
        _check_progress(progress)
    except UNREADABLE as error:
        raise unusable_state(out, why_unreadable(path, error)) from None
    _check_same(state.identity, identity, f"{out} holds an unfinished run", _advice(out))
    return state


def unusable_state(out: Path, reason: str) -> InputError:
    """Return the error that says why a run's state cannot be used, and what to do."""
    return InputError(f"{out / STATE_NAME} cannot be read ({reason.partition(chr(10))[0]}): {_advice(out)}.")


def _advice(out: Path) -> str:
    return f"delete {out / STATE_NAME} to start anew, or choose another output folder"


def _header(payload: memoryview) -> bytes:
    return _FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def _check_progress(progress: Progress) -> None:
    """Raise `ValueError` or `TypeError` where a part of the progress cannot be right."""
    if min(progress.epoch, progress.step) < 0 or len(progress.rows) != progress.epoch:
        raise ValueError(f"{len(progress.rows)} rows of metrics at epoch {progress.epoch}, step {progress.step}")
    if bool(progress.best_model) != (progress.epoch > 0):
        raise ValueError(f"the best of {progress.epoch} epochs has {len(progress.best_model)} tensors")


def _check_same(earlier: Mapping[str, Any], identity: Mapping[str, Any], what: str, advice: str) -> None:
    changes = [
        f"{_shown(name)} {earlier.get(name)!r} is now {identity.get(name)!r}"
        for name in sorted({*identity, *earlier})
        if earlier.get(name) != identity.get(name)
    ]
    if changes:
        raise InputError(f"{what} with other settings ({'; '.join(changes)}): {advice}.")


def _shown(name: str) -> str:
    """Return an entry of an identity as people know it: most are options."""
    others = {"shards_sha256": "the SHA-256 of the shards' manifest", "world_size": "the number of processes"}
    return others.get(name) or option_name(name)


def finished_metrics(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metrics of a finished run, None without a whole one; raises `InputError` if it is another run's."""
    if (out / STATE_NAME).exists() or not (out / METRICS_NAME).is_file():
        return None
    try:
        earlier = read_card(out / MODEL_NAME).config
        metrics: dict[str, Any] = json.loads((out / METRICS_NAME).read_text(encoding="utf-8"))
    except (InputError, ValueError):
        return None  # damaged: train again
    _check_same(earlier, identity, f"{out} holds a finished model", "choose another output folder, or delete this one")
    return metrics


def remove_results(out: Path) -> None:
    """Remove an earlier, damaged run's results, the marker first: results of two runs never lie side by side."""
    for name in (METRICS_NAME, RECORD_NAME, EPOCHS_NAME, MODEL_NAME):
        (out / name).unlink(missing_ok=True)


def write_epochs(out: Path, rows: list[dict[str, float]]) -> None:
    """Write one line per finished epoch to `metrics.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / EPOCHS_NAME, text.getvalue().encode())


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Write `record.json`: how the model was made, and what it does class by class."""
    write_atomically(out / RECORD_NAME, _json(record))


def write_metrics(out: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`; with it the run is finished, and its state goes."""
    write_atomically(out / METRICS_NAME, _json(metrics))
    (out / STATE_NAME).unlink(missing_ok=True)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


LARGEST_COST = 0.01  # of the time, that saving may take


class SaveClock:
    """Tells when the next state is due: every so many minutes, and less often where saving takes 1 % of the time."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._next = time.monotonic() + self._seconds

    def due(self) -> bool:
        """Return whether a state should be saved now."""
        return time.monotonic() >= self._next

    def saved(self, seconds: float) -> None:
        """Take note that a state was saved just now, which took so many seconds."""
        self._next = time.monotonic() + max(self._seconds, seconds / LARGEST_COST)


@contextmanager
def received_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of stopping at once (only a main thread may)."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
