"""The names of classifiers, and which of them there are; what makes them is in `train.models`."""

import difflib
from collections.abc import Iterable

from stylize.console import InputError
from stylize.console.references import is_reference

TIMM, LITE0, SMALL = "timm/", "efficientnet_lite0", "small"
ARCHITECTURE_HELP = (
    f"a torchvision classifier such as resnet34, {TIMM}NAME, {LITE0}, {SMALL}, or your own package.module:function."
)
STEMS = ("standard", "small")
SCRATCH, IMAGENET = "scratch", "imagenet"


def check_architecture(name: str) -> None:
    """Raise `InputError` where no network can have this name; `make_network` finds out whether code of others has."""
    if name in (LITE0, SMALL) or name.startswith(TIMM) or is_reference(name):
        return
    from torchvision import models  # which takes seconds

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"Unknown architecture {name!r}{similar(name, known)}: give {ARCHITECTURE_HELP}")


def similar(name: str, names: Iterable[str]) -> str:
    """Return a question that names the nearest of some names, if any is near."""
    near = difflib.get_close_matches(name, names, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
