"""The state of a training run: saved so that an interrupted run goes on exactly where it was."""

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylize.console import InputError, option_name
from stylize.files import UNREADABLE, why_unreadable, write_atomically
from stylize.interruption import answered_by

STATE_NAME = "state.pt"
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
        if min(progress.epoch, progress.step) < 0 or len(progress.rows) != progress.epoch:
            raise ValueError(f"{len(progress.rows)} rows of metrics at epoch {progress.epoch}, step {progress.step}")
        if bool(progress.best_model) != (progress.epoch > 0):
            raise ValueError(f"the best of {progress.epoch} epochs has {len(progress.best_model)} tensors")
    except UNREADABLE as error:
        raise unusable_state(out, why_unreadable(path, error)) from None
    refuse_other_settings(state.identity, identity, f"{out} holds an unfinished run", _advice(out))
    return state


def unusable_state(out: Path, reason: str) -> InputError:
    """Return the error that says why a run's state cannot be used, and what to do."""
    return InputError(f"{out / STATE_NAME} cannot be read ({reason.partition(chr(10))[0]}): {_advice(out)}.")


def _advice(out: Path) -> str:
    return f"delete {out / STATE_NAME} to start anew, or choose another output folder"


def _header(payload: memoryview) -> bytes:
    return _FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n"


# Entries of an identity that are no options, as people know them.
_SHOWN = {
    "shards_sha256": "the SHA-256 of the shards' manifest",
    "world_size": "the number of processes",
    "streaming_workers": "--workers of streamed shards",
}


def refuse_other_settings(earlier: Mapping[str, Any], identity: Mapping[str, Any], what: str, advice: str) -> None:
    """Raise `InputError`, which names them, where settings that change results differ from those of an earlier run."""
    changes = [
        f"{_SHOWN.get(name) or option_name(name)} {earlier.get(name)!r} is now {identity.get(name)!r}"
        for name in sorted({*identity, *earlier})
        if earlier.get(name) != identity.get(name)
    ]
    if changes:
        raise InputError(f"{what} with other settings ({'; '.join(changes)}): {advice}.")


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
    with answered_by(lambda number, frame: received.append(number)):
        yield received
