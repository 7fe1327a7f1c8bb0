"""Attacked images shown once more to a model that saw none before: a copy, or the model opened in a new process."""

import copy
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attack.attacks.attack import misclassified
from attack.attacks.wrappers import Averaged
from attack.evaluation.target import Target, answers, open_model, without_tf32
from stylize.console import InputError
from stylize.references import is_reference
from train import trust
from train.loading import process_context

START_S = 300.0  # for a process to import what the model needs, and to open it
SLOWER = 10  # times as slow as here it may be


def right_afresh(target: Target, images: Tensor, labels: Tensor, batch_size: int, seconds: float) -> list[bool]:
    """Return which images (N, C, H, W) a model that saw none before gets right, (N,), when the last one comes first.

    A function of the user's own may keep what its model saw where no copy leaves it behind, such as in a global of its
    module. So a model that such a function makes is opened again, in a process of its own. `seconds` is how long the
    network took for these images.

    Raises `InputError` where there is no such model, or it does not answer.
    """
    asked = _Question(
        target.reference, target.card.arch, target.shards, target.sha256, getattr(target.network, "draws", 1),
        images.detach().flip(0).cpu().numpy(), labels.flip(0).cpu().numpy(), batch_size, torch.get_num_threads(),
    )  # fmt: skip
    if target.reopened:
        right = _ask_new_process(asked, START_S + SLOWER * seconds)
    elif target.untouched is None:
        raise InputError("the model cannot be copied")
    else:
        right = _right(copy.deepcopy(target.untouched), asked, target.device)
    return right[::-1]


class _Question(NamedTuple):
    """What a new process needs to know; images and labels are no tensors, which both processes would have to share."""

    reference: str
    arch: str
    shards: Path
    sha256: str
    draws: int
    images: Any
    labels: Any
    batch_size: int
    threads: int


def _right(model: nn.Module, asked: _Question, device: torch.device) -> list[bool]:
    images, labels = (torch.from_numpy(array).to(device) for array in (asked.images, asked.labels))
    right: list[bool] = (~misclassified(answers(model, images, asked.batch_size), labels)).tolist()
    return right


def _ask_new_process(asked: _Question, limit: float) -> list[bool]:
    context = process_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, asked))
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(limit) else f"it does not answer within {limit:.0f} s"
    except EOFError:
        answer = "it ends without an answer"
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        raise InputError(f"the model cannot be opened again in a process of its own: {answer}")
    return list(answer)


def _answer(sender: Connection, asked: _Question) -> None:
    torch.set_num_threads(asked.threads)
    try:
        if is_reference(asked.arch):
            trust(asked.arch)
        target = open_model(asked.reference, asked.shards)
        if target.sha256 != asked.sha256:
            raise InputError("its weights or its code are others than before")
        model = Averaged(target.network, asked.draws) if asked.draws > 1 else target.network
        with without_tf32():
            sender.send(_right(model.eval(), asked, target.device))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
