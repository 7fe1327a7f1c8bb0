"""A tiny stylization before every run, so that wrong weights or a faulty kernel stop it before it writes garbage."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from stylize.drawn.patterns import draw_pattern
from stylize.drawn.shapes import draw_shape
from stylize.engine.engine import Engine, Pixels
from stylize.engine.styles import Style
from stylize.errors import InputError
from stylize.networks.pair import load_pair
from stylize.sources.pictures import decode_picture

SIDE = 64
MIN_CORRELATION = 0.6  # of a picture and its reconstruction; a decoder of another encoder stays near 0
MIN_PSNR = 30.0  # of the shipped pair's golden picture, in decibels; bfloat16 on any device reaches 35


def golden_pictures() -> tuple[Pixels, Pixels, Pixels]:
    """Return content, style and the content as the shipped pair stylizes it in float32, each (64, 64, 3)."""
    strip = np.asarray(decode_picture(Path(str(files("stylize.networks") / "shipped" / "golden.png")).read_bytes()))
    content, style, stylized = (strip[:, SIDE * k : SIDE * (k + 1)] for k in range(3))
    return content, style, stylized


def golden_style() -> Style:
    """Return the self-test's style."""
    return Style("golden", "", Image.fromarray(golden_pictures()[1]))


def draw_golden() -> Image.Image:
    """Return the strip of content, style and stylized content that ships; drawn anew when the shipped pair changes."""
    scene, pattern = draw_shape(0, size=SIDE, split="test").picture, draw_pattern("swirls", SIDE)
    content, style = np.asarray(scene), np.asarray(pattern)
    pair = load_pair()
    engine = Engine(pair.encoder.network, pair.decoder, [Style("golden", "", Image.fromarray(style))], "float32")
    return Image.fromarray(np.concatenate([content, style, engine.stylize(content[None], [0], alpha=1.0)[0]], axis=1))


def self_test(engine: Engine, shipped: bool) -> None:
    """Raise `InputError` where an engine, whose last style is `golden_style()`, cannot reconstruct a picture.

    Or where it misses the golden picture although its networks are the `shipped` pair, whose output is known.
    """
    content, _, golden = golden_pictures()
    reconstruction = engine.stylize(content[None], [-1], alpha=0.0)[0]
    if correlation(content, reconstruction) < MIN_CORRELATION:
        raise InputError("The decoder does not reconstruct the self-test's picture: give a trained --decoder.")
    if shipped and psnr(golden, engine.stylize(content[None], [-1], alpha=1.0)[0]) < MIN_PSNR:
        raise InputError(
            f"The self-test's picture comes out wrong in {engine.dtype_name} on {engine.device}: "
            "try --backend torch --dtype float32."
        )


def correlation(first: Pixels, second: Pixels) -> float:
    """Return the correlation of two pictures' values; 0 where one of them is constant."""
    one, other = (pixels.astype(np.float64) - pixels.mean() for pixels in (first, second))
    scale = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / scale) if scale else 0.0


def psnr(first: Pixels, second: Pixels) -> float:
    """Return the peak signal-to-noise ratio in decibels; infinite for equal pictures."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
