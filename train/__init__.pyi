"""The public API of `train`; `__init__.py` imports each name from here when it is first used."""

from .augment import ImagePreset as ImagePreset
from .augment import image_preset as image_preset
from .config import TrainConfig as TrainConfig
from .dataset import PairedShards as PairedShards
from .evaluation import TestImage as TestImage
from .evaluation import evaluate as evaluate
from .evaluation import load_test_images as load_test_images
from .models import ModelCard as ModelCard
from .models import build_model as build_model
from .models import load_model as load_model
from .models import read_card as read_card
from .models import save_model as save_model
from .models import trust as trust
from .run import train_model as train_model
from .streaming import PairedStream as PairedStream

__version__: str
