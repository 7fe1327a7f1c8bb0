"""The images of a cue-conflict folder, drawn or stylized, as samples that name their texture's class."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stylize.drawn.shapes import CLASS_NAMES, draw_shape
from stylize.engine.engine import Engine, Pixels
from stylize.engine.styles import Style
from stylize.runs.codec import Codec
from stylize.runs.cues import Cue
from stylize.runs.job import Failure
from stylize.shards.format import Sample
from stylize.sources.pictures import PictureError
from stylize.sources.source import SHAPES_SIDE, ShapesSource, Source


def draw_cue(source: ShapesSource, split: str, index: int, codec: Codec, size: int | None) -> Sample:
    """Draw an image of the exact splits of `shapes`, which goes the way of its other images, through 64 × 64 pixels."""
    data = source.read(split, index)
    content = codec.read_content(data, size).data
    texture = draw_shape(index, size=SHAPES_SIDE, split=split).texture
    metadata = {"source": source.path(split, index), "source_sha256": hashlib.sha256(data).hexdigest()}
    if texture is not None:
        metadata["texture"] = CLASS_NAMES[texture]
    return Sample(f"{index:08d}", content, (), source.label(split, index), metadata)


@dataclass(frozen=True)
class StoredPicture:
    """A test image as it would be stored: its name and hash in the source, and its pixels (H, W, 3)."""

    path: str
    sha256: str
    pixels: Pixels


@dataclass(frozen=True)
class Painter:
    """Makes cue-conflict images with the stylizer; the last four fields are those of `ShardOptions`."""

    source: Source
    engine: Engine
    codec: Codec
    alpha: float
    transfer: str
    size: int | None
    work_size: int | None

    def paint(self, cues: Sequence[Cue]) -> Iterator[Sample | Failure]:
        """Yield the cues' samples in their order, each with the content of one test image and the style of another."""
        pictures = {index: self._read(index) for cue in cues for index in (cue.shape, cue.texture)}
        painted: dict[Cue, Sample | Failure] = {}
        usable = []
        for cue in cues:
            shape, texture = pictures[cue.shape], pictures[cue.texture]
            if isinstance(shape, Failure):
                painted[cue] = shape
            elif isinstance(texture, Failure):
                reason = f"cannot get its texture: {texture.path} {texture.reason}"
                painted[cue] = Failure("test", shape.path, reason)
            else:
                usable.append((cue, shape, texture))
        painted |= self._stylize(usable)
        yield from (painted[cue] for cue in cues)

    def _read(self, index: int) -> StoredPicture | Failure:
        path = self.source.path("test", index)
        try:
            data = self.source.read("test", index)
            pixels = self.codec.read_content(data, self.size).pixels
        except PictureError as error:
            return Failure("test", path, str(error))
        return StoredPicture(path, hashlib.sha256(data).hexdigest(), pixels)

    def _stylize(self, usable: Sequence[tuple[Cue, StoredPicture, StoredPicture]]) -> dict[Cue, Sample | Failure]:
        """Stylize in batches of one shape, and encode."""
        if not usable:
            return {}
        self.engine.use_styles([self._style(texture) for _, _, texture in usable])
        by_shape = defaultdict(list)
        for position, (_, shape, _) in enumerate(usable):
            by_shape[shape.pixels.shape].append(position)
        samples = {}
        for positions in by_shape.values():
            contents = np.stack([usable[position][1].pixels for position in positions])
            stylized = self.engine.stylize(contents, positions, self.alpha, self.work_size, self.transfer)
            for position, pixels in zip(positions, stylized, strict=True):
                samples[usable[position][0]] = self._sample(*usable[position], pixels)
        return samples

    def _style(self, texture: StoredPicture) -> Style:
        """Return a texture as a style, at the scale at which contents are stylized."""
        picture = Image.fromarray(texture.pixels)
        if self.work_size:
            scale = self.work_size / min(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        return Style(texture.path, texture.sha256, picture)

    def _sample(self, cue: Cue, shape: StoredPicture, texture: StoredPicture, pixels: Pixels) -> Sample | Failure:
        metadata = {
            "source": shape.path,
            "source_sha256": shape.sha256,
            "texture": self.source.class_names[self.source.label("test", cue.texture)],
            "texture_source": texture.path,
            "texture_source_sha256": texture.sha256,
            "alpha": self.alpha,
        }
        try:
            content = self.codec.encode(pixels)
        except PictureError as error:
            return Failure("test", shape.path, f"image {error}")
        return Sample(f"{cue.shape:08d}", content, (), self.source.label("test", cue.shape), metadata)
