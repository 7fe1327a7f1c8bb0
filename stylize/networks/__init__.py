"""The AdaIN networks, their weights, and the stylizer that runs them fast.

Here is what they take, in names and numbers alone: commands check their options without loading any network.
"""

from pathlib import Path

from stylize.console import InputError

MIN_SIDE = 16  # pixels, below which reflection padding has nothing to reflect at relu4_1
FEATURES = "features"  # AdaIN, the paper's way
COLOURS = "colours"  # the channels' means and standard deviations alone, without a network
BOTH = "both"  # AdaIN, then colours: the decoder's are muted
TRANSFERS = (FEATURES, COLOURS, BOTH)
TORCHVISION = "vgg19-torchvision"  # the encoder that torchvision downloads
WEIGHTS = Path("data/weights")  # where imported ones lie
ALL_PATTERNS = "patterns"  # the style that stands for all built-in ones


def check_transfer(transfer: str, work_size: int | None) -> None:
    """Raise `InputError` for what is none of `TRANSFERS`, or a working size where no network works at it."""
    if transfer not in TRANSFERS:
        raise InputError(f"--transfer is {transfer!r}: give one of {', '.join(TRANSFERS)}.")
    if transfer == COLOURS and work_size is not None:
        raise InputError(f"--work-size {work_size} is that of the networks, which --transfer {COLOURS} does not run.")


def check_style_exists(name: str) -> None:
    """Raise `InputError` for what is neither the name of a built-in style nor a path."""
    from stylize.sources.folder import exists  # which import NumPy, as --help need not
    from stylize.sources.patterns import PATTERN_NAMES

    if name not in (ALL_PATTERNS, *PATTERN_NAMES) and not (name and exists(Path(name))):
        known = ", ".join(PATTERN_NAMES)
        raise InputError(f"There is no style {name!r}: give the path of a picture or folder, or one of {known}.")
