"""Any stylizer as jobs call it: the built-in one, or code of the user's own that `--stylizer` names."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from stylize.console import InputError
from stylize.console.references import code_files, load_reference, reason_of
from stylize.jobs.spec import ShardOptions, Spec, StyleRecord, draw_copies
from stylize.networks.devices import find_device
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import Pixels, Stylizer, golden_pictures

TEST_SIDE = 224  # pixels, where --size gives none
# What code of one's own may declare as attributes, and what holds where it does not; a name, else its reference.
DECLARED = {"name": "", "version": "", "parameters": {}, "batch_size": 16, "needs_styles": True, "deterministic": True}
HANDED = {"seeds", "alphas"}  # to code whose signature takes them


def stylize_copies(
    stylizer: "Stylizer | OwnStylizer", spec: Spec, images: Sequence[tuple[str, str, Pixels]]
) -> list[Pixels]:
    """Return the copies (K, H, W, 3) of every image (key, path, pixels); all are of one shape.

    Raises `InputError` where the stylizer fails; for code of one's own it names the image.
    """
    copies = spec.styles_per_image
    draws = [draw for key, _, _ in images for draw in draw_copies(spec, key)]
    contents = np.stack([pixels for _, _, pixels in images]).repeat(copies, axis=0)
    choice, alphas, seeds = (list(each) for each in zip(*draws, strict=True))
    if isinstance(stylizer, Stylizer):
        alpha = alphas if isinstance(spec.alpha, str) else alphas[0]
        made = stylizer(contents, choice, alpha, spec.work_size, spec.transfer)
    else:
        made = stylizer(contents, choice, alphas, seeds, [path for _, path, _ in images for _ in range(copies)])
    return list(made.reshape(len(images), copies, *contents.shape[1:]))


@dataclass(frozen=True)
class OwnStylizer:
    """Code of the user's own, the pictures (H, W, 3) of the run's styles, and what the code declares.

    `function(images, choice, styles)` gets and returns uint8 (N, H, W, 3), and the index of each image's style. Where
    its signature has `seeds` or `alphas`, it gets a number of 32 bits, or the strength, of each image too.
    """

    function: Callable[..., Any]
    declared: dict[str, Any]
    styles: list[Pixels]
    device: torch.device
    backend, dtype_name, batch_pixels, streams = "own", "uint8", None, 1

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what the specification holds other than for the built-in stylizer."""
        return {"stylizer": self.declared} | ({} if "alphas" in _handed(self.function) else {"alpha": None})

    def batch_size(self, _height: int, _width: int, _work_size: int | None = None) -> int:
        """Return how many images the code takes at a time."""
        return int(self.declared["batch_size"])

    def is_large(self, _height: int, _width: int, _work_size: int | None = None) -> bool:
        """Return False: one call runs at a time, and has all threads."""
        return False

    def __call__(
        self, images: Pixels, choice: Sequence[int], alphas: Sequence[float], seeds: Sequence[int], names: Sequence[str]
    ) -> Pixels:
        """Stylize uint8 (N, H, W, 3); raise `InputError`, with the name of an image, where the code fails."""
        handed = _handed(self.function)
        given = {name: values for name, values in (("alphas", alphas), ("seeds", seeds)) if name in handed}
        made = []
        for start in range(0, len(images), self.declared["batch_size"]):
            part = slice(start, start + self.declared["batch_size"])
            own = {name: list(values[part]) for name, values in given.items()}
            made.append(self._call(images[part], choice[part], own, names[part]))
        return np.concatenate(made)  # a copy: the code may write into its pictures again

    def _call(self, images: Pixels, choice: Sequence[int], given: dict[str, Any], names: Sequence[str]) -> Pixels:
        try:
            made = self.function(images.copy(), list(choice), self.styles, **given)
        except (Exception, SystemExit) as error:  # whatever their code does
            for at in range(len(images)) if len(images) > 1 else ():  # which image it is, the call alone tells
                one = slice(at, at + 1)
                self._call(images[one], choice[one], {name: own[one] for name, own in given.items()}, names[one])
            raise InputError(
                f"The stylizer {self.declared['reference']} failed on {names[0]} ({reason_of(error)}): "
                "mend it, and run the same command to go on."
            ) from None
        if wrong := _wrong(made, images):
            raise InputError(
                f"The stylizer {self.declared['reference']} returned {wrong} for {names[0]}: "
                f"return uint8 {images.shape} as it was given."
            )
        stylized: Pixels = made
        return stylized

    def self_test(self, side: int) -> None:
        """Raise `InputError` where the code fails on two pictures, or gives others when it is called again."""
        pictures = [Image.fromarray(picture).resize((side, side)) for picture in golden_pictures()[:2]]
        choice, names = [0, max(0, len(self.styles) - 1)], ["the self-test's picture"] * 2
        call = np.stack([np.asarray(picture) for picture in pictures]), choice, [0.5, 1.0], [1, 2], names
        first = self(*call)
        if self.declared["deterministic"] and not np.array_equal(first, self(*call)):
            raise InputError(
                f"The stylizer {self.declared['reference']} gives other pictures when it is called again: "
                "draw from `seeds`, or declare deterministic = False."
            )


def open_own_stylizer(options: ShardOptions) -> tuple[OwnStylizer, Sequence[Style | StyleRecord]]:
    """Import the code that `--stylizer` names and try it; return it and the run's styles.

    Raises `InputError` where it cannot be imported, declares what is none, or fails.
    """
    reference = str(options.stylizer)
    function = load_reference(reference, "Stylizer")
    if isinstance(function, type):
        try:
            function = function()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"Stylizer {reference} cannot be made ({reason_of(error)}): mend it.") from error
    declared = _declaration(reference, function)
    if options.alpha != ShardOptions.alpha and "alphas" not in _handed(function):
        raise InputError(f"--alpha is {options.alpha}, but {reference} takes no `alphas`: leave it out.")
    styles: Sequence[Style | StyleRecord] = [StyleRecord(declared["name"], None)]
    pictures: list[Pixels] = []
    if declared["needs_styles"]:
        loaded = load_styles(options.style, None, options.style_size)
        if fitted := [style.name for style in loaded if style.fitted]:
            raise InputError(f"{reference} does not use fitted statistics: give the picture of {fitted[0]}.")
        styles, pictures = loaded, [np.array(style.picture) for style in loaded]
    elif options.style != ShardOptions.style:
        raise InputError(f"--style is {options.style[0]}, but {reference} needs no styles: leave it out.")
    stylizer = OwnStylizer(function, declared, pictures, find_device("auto"))
    stylizer.self_test(options.size or TEST_SIDE)
    return stylizer, styles


def _declaration(reference: str, function: Any) -> dict[str, Any]:
    found = {name: getattr(function, name, default) for name, default in DECLARED.items()}
    # A method of that name, as networks have `parameters`, declares nothing.
    declared: dict[str, Any] = {name: DECLARED[name] if callable(own) else own for name, own in found.items()}
    declared["name"] = declared["name"] or reference
    for name, default in DECLARED.items():
        kind: type = dict if name == "parameters" else type(default)
        if type(declared[name]) is not kind or (name == "batch_size" and declared[name] < 1):
            wrong = f"declares {name} = {declared[name]!r}"
            raise InputError(f"Stylizer {reference} {wrong}: give {kind.__name__} like {default!r}.")
    try:
        declared["parameters"] = json.loads(json.dumps(declared["parameters"], allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"Stylizer {reference} declares parameters that are no JSON ({error}): mend them.") from None
    return {"reference": reference, **declared, "code_sha256": _code_sha256(reference, function)}


def _handed(function: Any) -> set[str]:
    try:
        return HANDED & signature(getattr(function, "forward", function)).parameters.keys()
    except (TypeError, ValueError):  # of compiled code that does not say what it takes
        return set()


def _code_sha256(reference: str, function: Any) -> str:
    """Return a SHA-256 of the files that hold the code, and of the tensors of networks that it has as attributes."""
    parts = function, *getattr(function, "__dict__", {}).values()
    networks = [part for part in parts if isinstance(part, nn.Module)]
    modules = {reference.partition(":")[0], function.__module__, type(function).__module__}
    modules |= {type(layer).__module__ for network in networks for layer in network.modules()}
    digest = hashlib.sha256()
    for path in code_files(modules):
        digest.update(path.read_bytes())
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _wrong(made: Any, images: Pixels) -> str | None:
    """Return what a stylizer returned other than pictures like the images, or None."""
    if not isinstance(made, np.ndarray):
        return type(made).__name__
    if made.dtype != np.uint8:
        has_nan = made.dtype.kind == "f" and bool(np.isnan(made).any())
        return f"{made.dtype}{' with NaN' if has_nan else ''}"
    if made.shape != images.shape:
        return f"uint8 {made.shape}"
    return None
