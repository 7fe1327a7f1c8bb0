"""Whether shards are worth training on, before any time is spent on them."""

from collections.abc import Callable, Mapping

from stylize.errors import InputError
from stylize.shards.suspicion import has_single_class, suspicions
from train.pairs import PairDataset


def refuse_single_class(train: PairDataset) -> None:
    """Raise `InputError` where all training images are of one class."""
    if has_single_class(train.index):
        raise InputError("All training images are of one class, so there is nothing to learn: make shards of several.")


def warn_of_suspicions(train: PairDataset, others: Mapping[str, PairDataset], warn: Callable[[str], None]) -> None:
    """Warn of what looks wrong with a folder though it can be trained on."""
    if train.streamed:  # a request for each of some thousand images
        warn("Warning: shards stay behind their URL, so whether copies are of their originals was not looked at.")
        return
    for suspicion in suspicions(train.index, {split: samples.index for split, samples in others.items()}):
        warn(f"Warning: {suspicion}")
