"""What a training step does beside the method's loss: optimiser, rate, soft and mixed labels, and averaged weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from train.config import TrainConfig

MOMENTUM = 0.9


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of a model; weight decay is for matrices and filters, not for biases and norms."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters: list[dict[str, Any]] = [{"params": learnt, "weight_decay": 0.0}]
    if config.weight_decay:
        decaying = [parameter for parameter in learnt if parameter.ndim > 1]
        others = [parameter for parameter in learnt if parameter.ndim <= 1]
        parameters = [
            {"params": decaying, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, config.learning_rate, MOMENTUM, nesterov=True)
        case "adamw":
            return torch.optim.AdamW(parameters, config.learning_rate)
        case _:
            return torch.optim.Adam(parameters, config.learning_rate)


def learning_rate(config: TrainConfig, epochs: float) -> float:
    """Return the learning rate after so many epochs, from 0 to less than all.

    It rises evenly from 0 over the warm-up; then it is constant, or falls to 0 by half a cosine or a line.
    """
    if epochs < config.warmup_epochs:
        return config.learning_rate * epochs / config.warmup_epochs
    done = (epochs - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    match config.schedule:
        case "cosine":
            return 0.5 * config.learning_rate * (1 + math.cos(math.pi * done))
        case "linear":
            return config.learning_rate * (1 - done)
        case _:
            return config.learning_rate


def pairing_weight(config: TrainConfig, epochs: float) -> float:
    """Return λ after so many epochs: it rises evenly from 0 to its full value over the warm-up."""
    return config.weight if epochs >= config.pairing_warmup else config.weight * epochs / config.pairing_warmup


def soften(labels: Tensor, smoothing: float, classes: int) -> Tensor:
    """Return labels (B,) as they are or, with smoothing, as probabilities (B, classes) (Szegedy et al. 2016)."""
    if not smoothing:
        return labels
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mix(config: TrainConfig, views: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix every image (B, V, 3, H, W) with another of the batch, all its views alike, and their labels.

    Mixup (Zhang et al. 2018) blends them, CutMix (Yun et al. 2019) puts a box of the other one in; with both, a fair
    coin decides for each batch.  Draws from PyTorch's generator.  Labels (B,) or (B, classes) become (B, classes).
    """
    if not (config.mixup or config.cutmix):
        return views, labels
    cuts = config.cutmix > 0 and (config.mixup == 0 or bool(torch.rand(()) < 0.5))
    concentration = config.cutmix if cuts else config.mixup
    share = float(torch.distributions.Beta(concentration, concentration).sample())
    others = torch.randperm(len(views), device=views.device)
    if cuts:
        views, share = _with_box(views, views[others], share)
    else:
        views = share * views + (1 - share) * views[others]
    soft = labels if labels.ndim > 1 else F.one_hot(labels, classes).float()
    return views, share * soft + (1 - share) * soft[others]


def _with_box(views: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Return views with a box of the others in them, cut at the borders, and the share of pixels that is left."""
    height, width = views.shape[-2:]
    side = math.sqrt(1 - share) / 2
    top, left = (float(torch.rand(())) * length for length in (height, width))
    rows = slice(max(round(top - side * height), 0), min(round(top + side * height), height))
    columns = slice(max(round(left - side * width), 0), min(round(left + side * width), width))
    mixed = views.clone()
    mixed[..., rows, columns] = others[..., rows, columns]
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - covered / (height * width)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy whose weights are a moving average of the model's: decay of the old average at each update.

    At first the decay is (1 + n) / (10 + n) after n updates, so that the random start is soon forgotten.
    """

    def average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        return old + (new - old) * (1 - kept)

    return AveragedModel(model, avg_fn=average)


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` where parameters have different kinds of state, or a state of another shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({frozenset(optimizer.state.get(parameter, {})) for parameter in parameters}) > 1:
        raise ValueError("the optimiser's state lacks tensors")
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, torch.Size()):
                raise ValueError(f"the optimiser's {name} has the shape {tuple(value.shape)}")
