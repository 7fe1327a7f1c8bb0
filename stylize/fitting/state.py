"""The file beside a decoder in training from which an interrupted training goes on."""

import io
from pathlib import Path
from typing import Any

import torch

from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.weights_files import UNREADABLE, why_unreadable


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; raise `InputError` where the file is damaged or holds anything else."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("not a training's state")
    except UNREADABLE as error:
        reason = why_unreadable(path, error)
        raise InputError(f"The unfinished training {path} is damaged ({reason}): delete it to start again.") from None
    return state
