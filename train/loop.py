"""The training loop: one step, one epoch, and the state to continue from between any two steps."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stylize.errors import InputError, plain_errors
from train.batch_normalisation import fresh_statistics, synchronised
from train.config import TrainConfig
from train.distributed import World
from train.loading import Batch, to_pixels
from train.methods.method import Losses
from train.methods.table import METHODS
from train.models import ARCHITECTURES
from train.order import hashed
from train.state import Progress, SavedState, unusable_state

_CPU_INFO = Path("/proc/cpuinfo")


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step in [0, steps): constant, or half a cosine from the full rate towards zero."""
    if config.schedule == "constant":
        return config.learning_rate
    return 0.5 * config.learning_rate * (1 + math.cos(math.pi * step / steps))


def pairing_weight(config: TrainConfig, epochs: float) -> float:
    """Return λ after so many epochs: it rises evenly from 0 to its full value over the warm-up."""
    return config.weight if epochs >= config.pairing_warmup else config.weight * epochs / config.pairing_warmup


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Return whether to train in bf16: "auto" does so where the hardware multiplies bf16 matrices and gains by it."""
    if config.dtype != "auto":
        return config.dtype == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not ARCHITECTURES[config.arch].fast_bf16_on_cpu:
        return False
    flags = _CPU_INFO.read_text().split() if _CPU_INFO.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def uses_sync_batchnorm(config: TrainConfig, world: World) -> bool:
    """Return whether BatchNorm spans all processes; by default where there are several, on GPUs."""
    wanted = world.device.type == "cuda" if config.sync_batchnorm is None else config.sync_batchnorm
    return wanted and world.size > 1


class Trainer:
    """A model in training on one process of a world, and how far it has come."""

    def __init__(self, config: TrainConfig, model: nn.Module, world: World, steps_per_epoch: int) -> None:
        self.config, self.world, self.steps_per_epoch = config, world, steps_per_epoch
        self.progress = Progress()
        self.bf16 = uses_bf16(config, world.device)
        model = synchronised(model, world.device) if uses_sync_batchnorm(config, world) else model
        self.model = model.to(world.device).to(memory_format=torch.channels_last)
        self.parallel = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self._loss_sums = torch.zeros(3, dtype=torch.float64, device=world.device)

    def run_epoch(self, batches: Iterable[Batch], pause: Callable[[], bool], advance: Callable[[int], None]) -> bool:
        """Train on the rest of the epoch; return False as soon as `pause` says so after a step, in any process.

        `advance` is told the number of images after every step.  Raises `InputError` if the loss is no longer finite.
        """
        self.model.train()
        for images, labels in plain_errors(batches):
            self._loss_sums += self._step(images, labels)
            self.progress.step += 1
            advance(len(labels) * self.world.size)
            if self.world.any(pause()):
                return False
        return True

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the model on uint8 images (B, V, 3, H, W) and labels (B,); return loss, cross-entropy and pairing."""
        config, progress = self.config, self.progress
        # A seed of its own per step makes dropout independent of history: a resumed run needs no generator state.
        torch.manual_seed(hashed(config.seed, "step", progress.epoch, progress.step, self.world.rank))
        done = progress.epoch * self.steps_per_epoch + progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, done, config.epochs * self.steps_per_epoch)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            losses = self._losses(self.parallel, images, labels)
            loss = losses.cross_entropy
            if losses.pairing is not None:
                loss = loss + pairing_weight(config, done / self.steps_per_epoch) * losses.pairing
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        pairing = torch.zeros_like(loss) if losses.pairing is None else losses.pairing
        return torch.stack([loss, losses.cross_entropy, pairing]).detach()

    def _losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Return the method's losses on uint8 images (B, V, 3, H, W) and labels (B,)."""
        batch, views = images.shape[:2]
        pairs = to_pixels(images.flatten(0, 1), self.world.device).view(batch, views, *images.shape[2:])
        labels = labels.to(self.world.device, non_blocking=True)
        return METHODS[self.config.method].loss(model, pairs, labels, self.config.loss_settings)

    @torch.no_grad()
    def settle_statistics(self, batches: Iterable[Batch]) -> None:
        """Set BatchNorm's running statistics to their plain average over these batches, in float32, without training.

        The usual moving average lags behind the weights: after its first hundreds of steps from scratch a MobileNetV3
        (momentum 0.01; 0.1 is little better) classifies training batches well and guesses in eval mode.
        """
        self.model.train()
        with fresh_statistics(self.model):
            for images, labels in plain_errors(batches):
                self._losses(self.model, images, labels)
        self.world.copy_from_main(self.model.buffers())  # each process has seen batches of its own

    def finish_epoch(self, validation_accuracy: float) -> dict[str, float]:
        """Record the epoch, keep the model if it is the best so far, and move on; return the epoch's metrics."""
        progress = self.progress
        sums = self.world.sum(*self._loss_sums.tolist())
        loss, cross_entropy, pairing = (value / (self.world.size * self.steps_per_epoch) for value in sums)
        if not math.isfinite(loss):
            raise InputError(f"The loss of epoch {progress.epoch + 1} is {loss}: lower the learning rate.")
        if validation_accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = validation_accuracy, progress.epoch + 1
            progress.best_model = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "training_loss": loss,
            "cross_entropy": cross_entropy,
            "pairing_loss": pairing,
            "validation_accuracy": validation_accuracy,
            "seconds": round(progress.epoch_seconds, 3),
        }
        progress.rows.append(row)
        progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
        self._loss_sums.zero_()
        return row

    def state(self, identity: dict[str, Any]) -> SavedState:
        """Return what `resume` needs; all processes must call it together."""
        self.progress.loss_sums = [total / self.world.size for total in self.world.sum(*self._loss_sums.tolist())]
        return SavedState(identity, self.progress, self.model.state_dict(), self.optimizer.state_dict())

    def resume(self, state: SavedState) -> None:
        """Continue exactly where `state` was taken; raises `InputError` where it does not fit model and optimiser."""
        try:
            if state.progress.best_model:
                self.model.load_state_dict(state.progress.best_model)
            self.model.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
            _check_optimizer(self.optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unusable_state(self.config.out, " ".join(str(error).split())) from None
        if state.progress.step > self.steps_per_epoch:
            raise unusable_state(self.config.out, f"step {state.progress.step} of {self.steps_per_epoch}")
        self.progress = state.progress
        self._loss_sums.copy_(torch.tensor(state.progress.loss_sums, dtype=torch.float64))


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` where parameters have different kinds of state, or a state of another shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({frozenset(optimizer.state.get(parameter, {})) for parameter in parameters}) > 1:
        raise ValueError("the optimiser's state lacks tensors")
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, torch.Size()):
                raise ValueError(f"the optimiser's {name} has the shape {tuple(value.shape)}")
