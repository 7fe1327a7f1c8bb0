"""Train one classifier from start to finish: the folder, the epochs, the best model, its metrics."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from stylize.console import InputError, LiteralConsole, Show, counted, shown_progress
from stylize.console.references import is_reference
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import has_single_class, sanity_warnings
from train.augment import VIEWS, image_preset
from train.batch_norm import without_auxiliary
from train.config import TrainConfig
from train.dataset import PairedShards
from train.distributed import World, join_world, loading_workers
from train.evaluation import Metrics, count
from train.loading import (
    Batch,
    EpochBatches,
    EvaluationImages,
    TrainingViews,
    held_out_shards,
    hold_out,
    is_streamed,
    training_loader,
)
from train.loop import Trainer
from train.methods import METHODS
from train.models import MODEL_NAME, build_model, check_model, load_model, save_model, trust
from train.records import (
    finished_metrics,
    live_log,
    locked_folder,
    model_card,
    remove_results,
    run_identity,
    write_epochs,
    write_results,
)
from train.state import SaveClock, load_state, received_signals, save_state
from train.streaming import StreamedBatches

RECALIBRATION_BATCHES = 20  # enough for the averages of BatchNorm
RECALIBRATION_PAIRS = 256  # at least, where a quarter of the epoch has fewer batches


def train_model(config: TrainConfig) -> dict[str, Any]:
    """Train a classifier as configured and return its metrics, {} on all but the main process.

    Writes `model.safetensors` (best epoch on the validation split), `metrics.csv` and `metrics.json` into `config.out`.
    A stopped run continues exactly where it was when called again; a finished one returns at once.  SIGINT and SIGTERM
    save between two steps and raise `SystemExit`.  Raises `InputError` for unusable shards, weights or output folder,
    and where the folder holds a run with other settings or one that is at work.
    """
    with join_world(config.device) as world:
        identity = run_identity(config, world)
        finished = finished_metrics(config.out, identity)
        if finished is None:
            with locked_folder(config.out, world):
                return _Run(config, world, identity).train()
        if not world.is_main:
            return {}
        training_console(visible=True).print(f"{config.out} holds this run, finished: nothing was trained.")
        return finished


class _Run:
    """The parts of one run on one process."""

    def __init__(self, config: TrainConfig, world: World, identity: dict[str, Any]) -> None:
        self.config, self.world, self.identity = config, world, identity
        self._open_data()
        classes = len(self.samples.class_names)
        torch.manual_seed(config.seed)
        if is_reference(config.arch):
            trust(config.arch)  # whoever trains it has named it
        model = build_model(config.arch, classes, config.weights, config.stem)
        check_model(model, config.arch, self.preset.size, classes)
        self.trainer = Trainer(config, model, world, self.batches.steps, classes)
        self.clock = SaveClock(config.save_minutes)
        self.received: list[int] = []
        self.console = training_console(world.is_main)

    def _open_data(self) -> None:
        """Open the images to train on, as batches and what loads them, to validate on and to test on."""
        config, world, views = self.config, self.world, METHODS[self.config.method].views
        streamed = is_streamed(config.shards)
        manifest = read_manifest(config.shards)
        held_out = held_out_shards(manifest, config.validation_fraction, config.seed) if streamed else None
        self.samples = PairedShards(config.shards, "train", names=held_out)
        check_copies(config, self.samples.copies)
        self.test_samples = PairedShards(config.shards, "test")
        self.preset = image_preset(config.image_preset, self.samples.size, config.augment)
        self.workers = loading_workers(config, world.device, streamed)
        self.batches: EpochBatches | StreamedBatches
        self.loader: Iterable[Batch]
        if held_out is not None:
            self.validation_samples = self.samples if held_out else PairedShards(config.shards, "val")
            self.validation = np.arange(len(self.validation_samples))
            self.batches = StreamedBatches(config.shards, held_out, self.preset, config, world, self.workers)
            self.loader = self.batches
            return
        chosen = hold_out(config.shards, self.samples, config.validation_fraction, config.seed)
        training, self.validation_samples, self.validation = chosen
        self.batches = EpochBatches(training, config.batch_size, config.seed, world.rank, world.size)
        shown = TrainingViews(self.samples, training, self.preset, config.seed, views, config.stylized_fraction)
        self.loader = training_loader(shown, self.batches, self.workers, world.device.type == "cuda")

    def train(self) -> dict[str, Any]:
        """Run all epochs that are left, then publish the best model."""
        if isinstance(self.batches, EpochBatches):
            refuse_single_class(self.samples)
        if self.world.is_main and len(self.samples):
            warn_of_wrong_pairs(self.samples, {"test": self.test_samples}, training_console(visible=True).print)
        state = load_state(self.config.out, self.identity)
        self.world.barrier()  # all processes have looked before the first one writes
        if state is not None:
            self.trainer.resume(state)
        elif self.world.is_main:
            remove_results(self.config.out)
        progress = self.trainer.progress
        log = self.config.log if self.world.is_main else "none"
        with (
            shown_progress(self.console) as show,
            live_log(log, self.config.out, progress.rows) as self.report,
            received_signals() as self.received,
        ):
            while progress.epoch < self.config.epochs:
                self._advance(show)
            return self._publish()

    def _stopped(self) -> bool:
        return bool(self.received)

    def _advance(self, show: Show) -> None:
        """Train to the end of the epoch and evaluate, or to a pause; then save, and stop if a signal asked for it."""
        trainer, progress, started = self.trainer, self.trainer.progress, time.monotonic()
        self.batches.select(progress.epoch, progress.step)
        trained = trainer.run_epoch(
            self.loader, lambda: self._stopped() or (self.world.is_main and self.clock.due()), self._shown_images(show)
        )
        progress.training_seconds += time.monotonic() - started
        metrics = None
        if trained:
            self.batches.select(progress.epoch, count=recalibration_batches(self.batches.steps, self.config.batch_size))
            trainer.recalibrate(self.loader)
            metrics = self._count(self.validation_samples, self.validation)
        seconds = time.monotonic() - started
        progress.seconds, progress.epoch_seconds = progress.seconds + seconds, progress.epoch_seconds + seconds
        if metrics:
            row = trainer.finish_epoch(metrics)
            self.report(row)
            self.console.print(
                f"epoch {row['epoch']}/{self.config.epochs}: loss {row['training_loss']:.4f}, "
                f"validation accuracy {row['validation_accuracy']:.4f}, {row['seconds']:.1f} s"
            )
        started = time.monotonic()
        state = self.trainer.state(self.identity)
        if self.world.is_main:
            if metrics is not None:
                write_epochs(self.config.out, state.progress.rows)
            save_state(self.config.out, state)
        self.clock.saved(time.monotonic() - started)
        if self.world.any(self._stopped()) and progress.epoch < self.config.epochs:
            self._stop()

    def _shown_images(self, show: Show) -> Callable[[int], None]:
        """Return a function that shows so many images more of the run as trained on."""
        batch, progress, epochs = self.config.batch_size * self.world.size, self.trainer.progress, self.config.epochs
        task, total = f"training: epoch {progress.epoch + 1}/{epochs}", epochs * self.batches.steps * batch
        done = (progress.epoch * self.batches.steps + progress.step) * batch
        show(task, done, total)

        def report(images: int) -> None:
            nonlocal done
            done += images
            show(task, done, total)

        return report

    def _stop(self) -> NoReturn:
        self.console.print("Stopped and saved: the same command continues this run.")
        raise SystemExit(128 + (self.received or [signal.SIGTERM])[0])

    def _count(self, samples: PairedShards, indices: NDArray[np.int64]) -> Metrics | None:
        """Count over all processes, each of which takes its share of the images; None where a signal stopped it."""
        share = indices[self.world.rank :: self.world.size].tolist()
        images = EvaluationImages(samples, self.preset, share, with_copy=True)
        metrics = count(self.trainer.evaluated, images, workers=self.workers, stop=self._stopped)
        if self.world.any(self._stopped()):
            return None
        return Metrics(self.world.sum(metrics.by_class).cpu())

    def _publish(self) -> dict[str, Any]:
        """Write the best model, test it as it was written, and write the metrics, which mark the run as finished."""
        config, model = self.config, self.trainer.evaluated
        path = config.out / MODEL_NAME
        model.load_state_dict(self.trainer.progress.best_model)
        without_auxiliary(model)
        if self.world.is_main:
            save_model(path, model, model_card(self.samples, self.preset, self.identity))
            model.load_state_dict(load_model(path)[0].state_dict())
        tested = self._count(self.test_samples, np.arange(len(self.test_samples)))
        if tested is None:
            self._stop()
        if not self.world.is_main:
            return {}
        counts = {"training_images": self.batches.images, "validation_images": len(self.validation)}
        return write_results(config.out, self.trainer, self.identity, tested, self.samples.class_names, counts)


def recalibration_batches(steps: int, batch_size: int) -> int:
    """Return how many batches set BatchNorm's statistics after an epoch of so many: a quarter of a short one."""
    return min(RECALIBRATION_BATCHES, max(steps // 4, math.ceil(RECALIBRATION_PAIRS / batch_size)))


def check_copies(config: TrainConfig, copies: int) -> None:
    """Raise `InputError` where images have fewer copies than the method shows, or a share of none is asked for."""
    needed = VIEWS[METHODS[config.method].views].copies
    if copies < needed:
        there = counted(copies, "stylized copy", "stylized copies")
        raise InputError(
            f"{config.shards} has {there} an image, but the method {config.method!r} needs {needed}: "
            f"make shards with --styles-per-image {needed}."
        )
    if config.stylized_fraction < 1 and not needed:
        raise InputError(f"--stylized-fraction is for methods that show copies, not for {config.method!r}: leave it.")


def refuse_single_class(train: PairedShards) -> None:
    """Raise `InputError` where all training images are of one class."""
    if has_single_class(train.index):
        raise InputError("All training images are of one class, so there is nothing to learn: make shards of several.")


def warn_of_wrong_pairs(train: PairedShards, others: Mapping[str, PairedShards], warn: Callable[[str], None]) -> None:
    """Warn of what looks wrong with a folder though it can be trained on."""
    for sentence in sanity_warnings(train.index, {split: samples.index for split, samples in others.items()}):
        warn(f"Warning: {sentence}")


def training_console(visible: bool) -> LiteralConsole:
    """Return the run's console, on standard error; a silent one for all processes but the first."""
    return LiteralConsole(stderr=True, quiet=not visible, highlight=False)
