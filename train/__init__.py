"""Paired shards to classifiers."""

from train.augmentation import ImagePreset, image_preset
from train.checkpoint import ModelCard, load_model, read_card, save_model
from train.config import TrainConfig
from train.evaluation import TestImage, evaluate, load_test_images
from train.models import build_model
from train.pairs import PairDataset
from train.run import train_model

__all__ = [
    "ImagePreset",
    "ModelCard",
    "PairDataset",
    "TestImage",
    "TrainConfig",
    "build_model",
    "evaluate",
    "image_preset",
    "load_model",
    "load_test_images",
    "read_card",
    "save_model",
    "train_model",
]
