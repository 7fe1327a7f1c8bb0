"""The training loop: optimiser, schedule, one step, one epoch."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylize.console import InputError
from train.batch_norm import fresh_statistics, synchronised, with_auxiliary
from train.config import TrainConfig
from train.dataset import hashed
from train.distributed import World, uses_bf16, uses_sync_batchnorm
from train.evaluation import Metrics
from train.loading import Batch, to_pixels
from train.methods import METHODS, Losses
from train.state import Progress, SavedState, unusable_state

MOMENTUM = 0.9


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of a model; weight decay is for matrices and filters, not for biases and norms."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in learnt if parameter.ndim > 1 and config.weight_decay]
    others = [parameter for parameter in learnt if parameter.ndim <= 1 or not config.weight_decay]
    groups = ({"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0})
    parameters: list[dict[str, Any]] = [group for group in groups if group["params"]]
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


def mix(config: TrainConfig, views: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix every image (B, V, 3, H, W) with another of the batch, all its views alike, and the labels (B,).

    Mixup (Zhang et al. 2018) blends them, CutMix (Yun et al. 2019) puts a box of the other one in; with both, a fair
    coin decides for each batch.  Draws from PyTorch's generator.  Mixed labels are probabilities (B, classes).
    """
    if not (config.mixup or config.cutmix):
        return views, labels
    from torchvision.transforms import v2  # which takes seconds
    from torchvision.tv_tensors import Video

    kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
    mixers = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
    mixer = mixers[0] if len(mixers) == 1 else v2.RandomChoice(mixers)
    mixed, targets = mixer(Video(views), labels)  # torchvision treats the frames of a video alike
    return mixed.as_subclass(Tensor), targets


def smooth(labels: Tensor, smoothing: float, classes: int) -> Tensor:
    """Return labels, indices (B,) or probabilities (B, classes), as smoothed probabilities (Szegedy et al. 2016)."""
    if not smoothing:
        return labels
    probabilities = labels if labels.ndim > 1 else F.one_hot(labels, classes).float()
    return probabilities * (1 - smoothing) + smoothing / classes


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy whose weights are a moving average of the model's: decay of the old average at each update.

    At first the decay is (1 + n) / (10 + n) after n updates, so that the random start is soon forgotten.
    """

    def average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        return old + (new - old) * (1 - kept)

    return AveragedModel(model, avg_fn=average)


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` where parameters have different kinds of state, or a state of another shape.

    A parameter that never had a gradient, of a layer that the method does not use, has none.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kinds = {frozenset(optimizer.state.get(parameter, {})) for parameter in parameters}
    if len(kinds - {frozenset()}) > 1:
        raise ValueError("the optimiser's state lacks tensors")
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, torch.Size()):
                raise ValueError(f"the optimiser's {name} has the shape {tuple(value.shape)}")


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of matrix products and convolutions, forward and backward, that run inside.

    PyTorch's `FlopCounterMode` fails where a method takes gradients of images.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run an operation as it is, and count it."""
        result = func(*args, **(kwargs or {}))
        count: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


class Trainer:
    """A model in training on one process of a world, and how far it has come."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, world: World, steps_per_epoch: int, num_classes: int
    ) -> None:
        self.config, self.world, self.steps_per_epoch, self.num_classes = config, world, steps_per_epoch, num_classes
        self.progress = Progress()
        self.bf16 = uses_bf16(config, world.device)
        model = with_auxiliary(model) if config.split_batchnorm else model
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
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.module

    def run_epoch(self, batches: Iterable[Batch], pause: Callable[[], bool], advance: Callable[[int], None]) -> bool:
        """Train on the rest of the epoch; return False as soon as `pause` says so after a step, in any process.

        `advance` is told the number of images after every step.  Raises `InputError` if the loss is no longer finite.
        """
        self.model.train()
        for images, labels in batches:
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
                model, views = copy.deepcopy(self.model), self._pixels(images[:few])
                losses = self._losses(model, views, labels[:few].to(self.world.device))
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
            views, targets = mix(config, views, targets, self.num_classes)
            targets = smooth(targets, config.label_smoothing, self.num_classes)
            losses = self._losses(self.parallel, views, targets)
            loss = losses.cross_entropy
            if losses.pairing is not None:
                loss = loss + pairing_weight(config, epochs) * losses.pairing
        begun = progress.step - progress.step % config.accumulate
        (loss / min(config.accumulate, self.steps_per_epoch - begun)).backward()  # type: ignore[no-untyped-call]
        progress.step += 1
        if self._updates():
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, epochs)
            if config.clip_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.update_parameters(self.model)
        pairing = torch.zeros_like(loss) if losses.pairing is None else losses.pairing
        return torch.stack([loss, losses.cross_entropy, pairing]).detach()

    def _pixels(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, V, 3, H, W) as pixels in [0, 1] on the device."""
        return to_pixels(images.flatten(0, 1), self.world.device).view(images.shape)

    def _losses(self, model: nn.Module, views: Tensor, targets: Tensor) -> Losses:
        return METHODS[self.config.method].loss(model, views, targets, self.config.loss_settings)

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[Batch]) -> None:
        """Set BatchNorm's running statistics to their plain average over these batches, in float32, without training.

        The usual moving average lags behind the weights: after its first hundreds of steps from scratch a MobileNetV3
        (momentum 0.01; 0.1 is little better) classifies training batches well and guesses in eval mode.
        """
        model = self.evaluated.train()
        seed = self.config.seed, "statistics", self.progress.epoch, self.world.rank
        with fresh_statistics(model):
            for number, (images, labels) in enumerate(batches):
                torch.manual_seed(hashed(*seed, number))  # as for a step
                self._losses(model, self._pixels(images), labels.to(self.world.device))
        self.world.copy_from_main(model.buffers())  # each process has seen batches of its own

    def finish_epoch(self, metrics: Metrics) -> dict[str, float]:
        """Record the epoch, keep the model if it is the best so far, and move on; return the epoch's metrics.

        `metrics` is of the validation images; metrics of the copies are left out where there are none.
        """
        progress = self.progress
        sums = self.world.sum(self._loss_sums) / (self.world.size * self.steps_per_epoch)
        loss, cross_entropy, pairing = sums.tolist()
        if not math.isfinite(loss):
            raise InputError(f"The loss of epoch {progress.epoch + 1} is {loss}: lower the learning rate.")
        if metrics.accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = metrics.accuracy, progress.epoch + 1
            progress.best_model = {name: tensor.cpu().clone() for name, tensor in self.evaluated.state_dict().items()}
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "training_loss": loss,
            "cross_entropy": cross_entropy,
            "pairing_loss": pairing,
            **{f"validation_{name}": value for name, value in metrics.summary().items()},
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
        speed = {"images_per_second": round(rate, 1)}
        if self.flops_per_image is not None:
            speed["gflop_per_second"] = round(rate * self.flops_per_image / 1e9, 1)
        return speed

    def state(self, identity: dict[str, Any]) -> SavedState:
        """Return what `resume` needs; all processes must call it together."""
        self.progress.loss_sums = (self.world.sum(self._loss_sums) / self.world.size).tolist()
        average = {} if self.average is None else self.average.state_dict()
        return SavedState(identity, self.progress, self.model.state_dict(), self.optimizer.state_dict(), average)

    def resume(self, state: SavedState) -> None:
        """Continue exactly where `state` was taken; raises `InputError` where it does not fit model and optimiser."""
        try:
            if state.progress.best_model:
                self.evaluated.load_state_dict(state.progress.best_model)
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
