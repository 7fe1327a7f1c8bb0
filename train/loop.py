"""The training loop: one step, one epoch, and the state to continue from between any two steps."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stylize.errors import InputError, plain_errors
from train.batch_normalisation import fresh_statistics, split, synchronised
from train.config import TrainConfig
from train.distributed import World
from train.evaluation import Tally
from train.hardware import uses_bf16, uses_sync_batchnorm
from train.loading import Batch, to_pixels
from train.methods.method import Losses
from train.methods.table import METHODS
from train.operations import OperationCounter
from train.order import hashed
from train.recipe import averaged, check_optimizer, learning_rate, make_optimizer, mix, pairing_weight, soften
from train.state import Progress, SavedState, unusable_state


class Trainer:
    """A model in training on one process of a world, and how far it has come."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, world: World, steps_per_epoch: int, num_classes: int
    ) -> None:
        self.config, self.world, self.steps_per_epoch, self.num_classes = config, world, steps_per_epoch, num_classes
        self.progress = Progress()
        self.bf16 = uses_bf16(config, world.device)
        model = split(model) if config.split_batchnorm else model
        model = synchronised(model, world.device) if uses_sync_batchnorm(config, world) else model
        self.model = model.to(world.device).to(memory_format=torch.channels_last)
        self.average = averaged(self.model, config.ema) if config.ema else None
        if config.compile:
            self.model.compile()
        self.parallel = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = make_optimizer(config, self.model)
        self.flops_per_image: float | None = None  # of a training step, known after the first
        self._loss_sums = torch.zeros(3, dtype=torch.float64, device=world.device)

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.module

    def run_epoch(self, batches: Iterable[Batch], pause: Callable[[], bool], advance: Callable[[int], None]) -> bool:
        """Train on the rest of the epoch; return False as soon as `pause` says so after a step, in any process.

        `advance` is told the number of images after every step.  Raises `InputError` if the loss is no longer finite.
        """
        self.model.train()
        for images, labels in plain_errors(batches):
            self._count_operations(images, labels)
            self._loss_sums += self._step(images, labels)
            advance(len(labels) * self.world.size)
            if self._updates() and self.world.any(pause()):
                return False
        return True

    def _updates(self) -> bool:
        """Return whether the batches so far make whole updates; an epoch's last update may have fewer."""
        return self.progress.step % self.config.accumulate == 0 or self.progress.step == self.steps_per_epoch

    def _count_operations(self, images: Tensor, labels: Tensor) -> None:
        """Count those of a training step on a copy of the model: counting chooses other kernels, which round otherwise.

        Compiled code cannot be counted.
        """
        if self.flops_per_image is None and not self.config.compile:
            few = min(len(labels), 4)
            with OperationCounter() as counter:
                losses = self._losses(
                    copy.deepcopy(self.model), self._pixels(images[:few]), labels[:few].to(self.world.device)
                )
                parts = [part for part in (losses.cross_entropy, losses.pairing) if part is not None]
                torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
            self.flops_per_image = counter.total / few

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from uint8 images (B, V, 3, H, W) and labels (B,); return loss, cross-entropy and pairing loss."""
        config, progress = self.config, self.progress
        # A seed of its own per step makes dropout independent of history: a resumed run needs no generator state.
        torch.manual_seed(hashed(config.seed, "step", progress.epoch, progress.step, self.world.rank))
        epochs = progress.epoch + progress.step / self.steps_per_epoch
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            views, targets = self._pixels(images), labels.to(self.world.device, non_blocking=True)
            targets = soften(targets, config.label_smoothing, self.num_classes)
            views, targets = mix(config, views, targets, self.num_classes)
            losses = self._losses(self.parallel, views, targets)
            loss = losses.cross_entropy
            if losses.pairing is not None:
                loss = loss + pairing_weight(config, epochs) * losses.pairing
        (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        progress.step += 1
        if self._updates():
            self._update(epochs)
        pairing = torch.zeros_like(loss) if losses.pairing is None else losses.pairing
        return torch.stack([loss, losses.cross_entropy, pairing]).detach()

    def _update(self, epochs: float) -> None:
        """Move the weights by what the gradients add up to, after so many epochs."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, epochs)
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _pixels(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, V, 3, H, W) as pixels in [0, 1] on the device."""
        return to_pixels(images.flatten(0, 1), self.world.device).view(images.shape)

    def _losses(self, model: nn.Module, views: Tensor, targets: Tensor) -> Losses:
        return METHODS[self.config.method].loss(model, views, targets, self.config.loss_settings)

    @torch.no_grad()
    def settle_statistics(self, batches: Iterable[Batch]) -> None:
        """Set BatchNorm's running statistics to their plain average over these batches, in float32, without training.

        The usual moving average lags behind the weights: after its first hundreds of steps from scratch a MobileNetV3
        (momentum 0.01; 0.1 is little better) classifies training batches well and guesses in eval mode.
        """
        model = self.judged.train()
        seed = self.config.seed, "statistics", self.progress.epoch, self.world.rank
        with fresh_statistics(model):
            for number, (images, labels) in enumerate(plain_errors(batches)):
                torch.manual_seed(hashed(*seed, number))  # as for a step
                self._losses(model, self._pixels(images), labels.to(self.world.device))
        self.world.copy_from_main(model.buffers())  # each process has seen batches of its own

    def finish_epoch(self, tally: Tally) -> dict[str, float]:
        """Record the epoch, keep the model if it is the best so far, and move on; return the epoch's metrics.

        `tally` is of the validation images; metrics of the copies are left out where there are none.
        """
        progress = self.progress
        sums = self.world.sum(*self._loss_sums.tolist())
        loss, cross_entropy, pairing = (value / (self.world.size * self.steps_per_epoch) for value in sums)
        if not math.isfinite(loss):
            raise InputError(f"The loss of epoch {progress.epoch + 1} is {loss}: lower the learning rate.")
        if tally.accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = tally.accuracy, progress.epoch + 1
            progress.best_model = {name: tensor.cpu().clone() for name, tensor in self.judged.state_dict().items()}
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "training_loss": loss,
            "cross_entropy": cross_entropy,
            "pairing_loss": pairing,
            **{f"validation_{name}": value for name, value in tally.summary().items()},
            **self._speed(),
            "seconds": round(progress.epoch_seconds, 3),
        }
        progress.rows.append(row)
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.epoch_seconds = progress.training_seconds = 0.0
        self._loss_sums.zero_()
        return row

    def _speed(self) -> dict[str, float]:
        """Return how fast the epoch was trained, without its evaluation."""
        images = self.steps_per_epoch * self.config.batch_size * self.world.size
        rate = images / self.progress.training_seconds if self.progress.training_seconds else 0.0
        flops = (
            {} if self.flops_per_image is None else {"gflop_per_second": round(rate * self.flops_per_image / 1e9, 1)}
        )
        return {"images_per_second": round(rate, 1), **flops}

    def state(self, identity: dict[str, Any]) -> SavedState:
        """Return what `resume` needs; all processes must call it together."""
        self.progress.loss_sums = [total / self.world.size for total in self.world.sum(*self._loss_sums.tolist())]
        average = {} if self.average is None else self.average.state_dict()
        return SavedState(identity, self.progress, self.model.state_dict(), self.optimizer.state_dict(), average)

    def resume(self, state: SavedState) -> None:
        """Continue exactly where `state` was taken; raises `InputError` where it does not fit model and optimiser."""
        try:
            if state.progress.best_model:
                self.judged.load_state_dict(state.progress.best_model)
            self.model.load_state_dict(state.model)
            if self.average is not None:
                self.average.load_state_dict(state.average)
            self.optimizer.load_state_dict(state.optimizer)
            check_optimizer(self.optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unusable_state(self.config.out, " ".join(str(error).split())) from None
        if state.progress.step > self.steps_per_epoch:
            raise unusable_state(self.config.out, f"step {state.progress.step} of {self.steps_per_epoch}")
        self.progress = state.progress
        self._loss_sums.copy_(torch.tensor(state.progress.loss_sums, dtype=torch.float64))
