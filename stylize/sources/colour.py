"""Colour profiles (ICC): converted to sRGB by LittleCMS, so that all pixels mean the same colours."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles, and the mode of the pixels that they describe
_NO_EFFECT = 2  # grey levels of 255: an sRGB profile of another maker is off by that much


def changes_colours(profile: bytes, mode: str) -> bool:
    """Return whether a profile turns pixels of a mode (RGB, L or CMYK) into others.

    Not so where it cannot be read, describes other pixels, or is sRGB itself, within 2 of 255 levels.
    """
    return _transform(profile, mode) is not None


def to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture as RGB in sRGB, by its profile where that changes its colours (perceptual intent)."""
    transform = _transform(profile, colours.mode) if profile else None
    if transform is not None:
        return transform.apply(colours)
    return colours.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        if _SPACES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return None if _has_no_effect(transform, mode) else transform


def _has_no_effect(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Compare a lattice of colours before and after."""
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(lattice)
    after = np.asarray(transform.apply(before), dtype=np.int16)
    return int(np.abs(after - np.asarray(before.convert("RGB"))).max()) <= _NO_EFFECT
