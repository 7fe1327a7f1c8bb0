"""What is written of a finished run: a few metrics, and a record of how the model was made and what it does."""

from typing import Any

from train.environment import describe_environment
from train.evaluation import Tally
from train.loop import Trainer


def run_metrics(trainer: Trainer, tested: Tally, training_images: int, validation_images: int) -> dict[str, Any]:
    """Return the numbers of `metrics.json`; `tested` is of the test images, of which there may be none."""
    progress = trainer.progress
    return {
        "best_epoch": progress.best_epoch,
        "best_validation_accuracy": progress.best_accuracy,
        "training_images": training_images,
        "validation_images": validation_images,
        "test_accuracy": tested.accuracy if tested.images else None,
        "test_images": tested.images,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "parameters": sum(parameter.numel() for parameter in trainer.judged.parameters()),
    }


def run_record(trainer: Trainer, identity: dict[str, Any], tested: Tally, class_names: list[str]) -> dict[str, Any]:
    """Return `record.json`: settings with the digest of the shards, versions, hardware, and accuracy by class.

    `flop_per_image` is of a training step, forward and backward, over all that the method shows of an image.
    """
    by_class = zip(class_names, tested.class_correct, tested.class_images, strict=True)
    return {
        **describe_environment(trainer.world.device),
        "settings": identity,
        "flop_per_image": trainer.flops_per_image,
        "test_accuracy_by_class": {name: right / images for name, right, images in by_class if images},
        "best_epoch_metrics": trainer.progress.rows[trainer.progress.best_epoch - 1],
    }
