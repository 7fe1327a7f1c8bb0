"""Attacked images shown once more to a model that saw none before: a copy, or the model opened in a new process."""

import copy
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attack.attacks.attack import Averaged, misclassified
from attack.evaluation.target import Target, answers, open_model, without_tf32
from stylize.console import PATIENCE, InputError
from train.loading import process_context


def right_afresh(target: Target, images: Tensor, labels: Tensor, batch_size: int) -> list[bool]:
    """Return which images (N, C, H, W) a model that saw none before gets right, (N,), when the last one comes first.

    A function of the user's own may keep what its model saw where no copy leaves it behind, such as in a global of its
    module. So a model that such a function makes is opened again, in a process of its own.

    Raises `InputError` where there is no such model, or it does not answer within ten minutes.
    """
    asked = images.detach().flip(0), labels.flip(0), batch_size
    if target.untouched is not None:
        return _right(copy.deepcopy(target.untouched), *asked)[::-1]
    if not target.reopened:
        raise InputError("the model cannot be copied")
    context = process_context()
    receiver, sender = context.Pipe(duplex=False)
    arrays = asked[0].cpu().numpy(), asked[1].cpu().numpy()  # tensors would have to lie in shared memory
    known = target.reference, target.shards, target.sha256, getattr(target.network, "draws", 1)
    process = context.Process(target=_answer, args=(sender, *known, *arrays, batch_size))
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(PATIENCE) else "it does not answer"
    except EOFError:
        answer = "it ends without an answer"
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        raise InputError(f"the model cannot be opened again in a process of its own: {answer}")
    return list(answer)[::-1]


def _answer(
    sender: Connection, reference: str, shards: Path, sha256: str, draws: int, images: Any, labels: Any, batch_size: int
) -> None:
    try:
        target = open_model(reference, shards)
        if target.sha256 != sha256:
            raise InputError("its weights or its code are others than before")
        model, device = Averaged(target.network, draws).eval(), target.device
        with without_tf32():
            shown, right = (torch.from_numpy(array).to(device) for array in (images, labels))
            sender.send(_right(model, shown, right, batch_size))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _right(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> list[bool]:
    right: list[bool] = (~misclassified(answers(model, images, batch_size), labels)).tolist()
    return right
