"""The stylizer on a device: uint8 pictures in, uint8 pictures out, style statistics computed once."""

import copy
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stylize.console import InputError
from stylize.networks.adain import Decoder, Encoder, Stylizer, adain, channel_statistics, unit_range
from stylize.networks.devices import best_device, best_dtype
from stylize.networks.kernels import rearranged
from stylize.networks.openvino import bfloat16_stylizer, int8_stylizer
from stylize.networks.styles import Style
from stylize.networks.weights import load_pair
from stylize.shards.decode import decode_picture
from stylize.sources.patterns import draw_pattern
from stylize.sources.shapes import draw_shape

FEATURES = "features"  # AdaIN, the paper's way
COLOURS = "colours"  # no network: what is left of stylizing without texture
BOTH = "both"  # AdaIN, then colours: the decoder gives muted ones
TRANSFERS = (FEATURES, COLOURS, BOTH)


def check_transfer(transfer: str, work_size: int | None) -> None:
    """Raise `InputError` for what is none of `TRANSFERS`, or a working size where no network works at it."""
    if transfer not in TRANSFERS:
        raise InputError(f"--transfer is {transfer!r}: give one of {', '.join(TRANSFERS)}.")
    if transfer == COLOURS and work_size is not None:
        raise InputError(f"--work-size {work_size} is that of the networks, which --transfer {COLOURS} does not run.")


def colour_statistics(styles: Sequence[Style], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the channels' means and deviations of style pictures, each (S, 3, 1, 1), of values in [0, 1]."""
    pictures = (torch.from_numpy(np.array(style.picture)).permute(2, 0, 1)[None] for style in styles)
    means, deviations = zip(*(channel_statistics(unit_range(picture)) for picture in pictures), strict=True)
    return torch.cat(means).to(device), torch.cat(deviations).to(device)


def transfer_colours(pixels: Tensor, means: Tensor, deviations: Tensor, alpha: float) -> Tensor:
    """Give pixels (B, 3, H, W) in [0, 1] the channel statistics (B, 3, 1, 1) of a style, and clip; float32.

    That is AdaIN of the pixels themselves (Reinhard et al. 2001, in RGB); `alpha` 0 changes nothing.
    """
    return adain(pixels.float(), means, deviations, alpha).clamp(0, 1)


Pixels = NDArray[np.uint8]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
OPENVINO_DTYPES = (INT8, "bfloat16")
BACKENDS = ("torch", "openvino")
# Pixels per network batch; fixed, because a kernel's rounding may depend on the batch. On a CPU every thread has a
# batch of its own, and small ones suit its caches; a GPU needs many pixels to be busy.
BATCH_PIXELS = {"cpu": 224 * 224, "openvino": 2 * 224 * 224, "cuda": 64 * 224 * 224}
STREAM_PIXELS = 512 * 768  # up to which a CPU's every thread has a batch of its own; larger ones take all, one by one


class Engine:
    """A stylizer with its styles, in one type on one device, run by one backend.

    The backend `auto` is torch, whatever is installed: int8 pictures differ, so they are made only when asked for.
    Style statistics are computed by torch in any case.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, styles: Sequence[Style], dtype: str = "auto", backend: str = "auto"
    ) -> None:
        _check(dtype, backend)
        self.backend = "torch" if backend == "auto" else backend
        openvino = self.backend == "openvino"
        self.device = torch.device("cpu") if openvino else best_device()
        if dtype == "auto":
            dtype = INT8 if openvino else str(best_dtype(self.device)).removeprefix("torch.")
        self.dtype_name = dtype  # as the manifest records it
        self.dtype = torch.float32 if openvino else DTYPES[dtype]  # of what goes in and out of the network
        # A copy: the conversion below works in place, and the caller's networks may serve other engines.
        pair = copy.deepcopy((encoder, decoder))
        winograd = self.device.type == "cpu" and self.dtype == torch.float32
        network = Stylizer(*pair) if openvino else rearranged(*pair, winograd)
        self.network = network.eval().to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_pixels = BATCH_PIXELS[self.backend if openvino else self.device.type]
        self.largest_batch = self.batch_pixels  # of any size of picture; less once a GPU ran out of memory
        self.use_styles(styles)
        if openvino and dtype == INT8:
            self.network = int8_stylizer(encoder, decoder, self.means, self.deviations)
        elif openvino:
            self.network = bfloat16_stylizer(encoder, decoder)

    def batch_size(self, height: int, width: int, work_size: int | None = None) -> int:
        """Return how many pictures of a size are one batch of the network, if stylized with that short side."""
        height, width = _working_shape((height, width), work_size)
        return max(1, self.batch_pixels // (height * width))

    @property
    def streams(self) -> int:
        """How many batches should run side by side: one for each thread of a CPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def is_large(self, height: int, width: int, work_size: int | None = None) -> bool:
        """Return whether pictures of a size should be alone on the network: the memory of several would add up."""
        working_height, working_width = _working_shape((height, width), work_size)
        return max(height * width, working_height * working_width) > STREAM_PIXELS

    def use_styles(self, styles: Sequence[Style]) -> None:
        """Take other styles instead; with torch only, whose encoder computes the statistics."""
        self.means, self.deviations = self._style_statistics(styles)
        self.colours = colour_statistics(styles, self.device)

    @torch.inference_mode()
    def _style_statistics(self, styles: Sequence[Style]) -> tuple[Tensor, Tensor]:
        pairs = [self._statistics_of(style) for style in styles]
        return torch.cat([mean for mean, _ in pairs]), torch.cat([deviation for _, deviation in pairs])

    def _statistics_of(self, style: Style) -> tuple[Tensor, Tensor]:
        if style.fitted:
            return style.fitted.on(self.device)
        statistics: tuple[Tensor, Tensor] = self.network.style_statistics(
            self._to_device(np.asarray(style.picture)[None], self.dtype)
        )
        return statistics

    def _to_device(self, pictures: Pixels, dtype: torch.dtype) -> Tensor:
        pixels = torch.from_numpy(np.array(pictures))
        if self.device.type == "cuda":  # only pinned memory is copied while the GPU works
            pixels = pixels.pin_memory()
        on_device = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return unit_range(on_device, dtype)

    def stylize(
        self,
        pictures: Pixels,
        choice: Sequence[int],
        alpha: float,
        work_size: int | None = None,
        transfer: str = FEATURES,
    ) -> Pixels:
        """Stylize pictures (B, H, W, 3) of one size, each with its chosen style; returns the same shape.

        With `work_size` they are stylized with that short side and reduced again; `transfer` is one of `TRANSFERS`.
        Raises `InputError` for another one, where the output is not finite, or where a single picture is too large for
        the memory.
        """
        check_transfer(transfer, work_size)
        _, height, width, _ = pictures.shape
        batch = min(self.largest_batch, self.batch_size(height, width, work_size))
        outputs: list[Pixels] = []
        while (done := sum(map(len, outputs))) < len(pictures):
            part = slice(done, done + batch)
            try:
                outputs.append(self._stylize_batch(pictures[part], choice[part], alpha, work_size, transfer))
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                batch = self.largest_batch = self._halved(batch, f"{width}×{height}")
        return np.concatenate(outputs)

    def _halved(self, batch: int, shape: str) -> int:
        """Return half of a batch for which memory was too little; raise `InputError` for a single picture."""
        if batch == 1:
            raise InputError(
                f"A single picture of {shape} pixels does not fit into the memory of {self.device}: "
                f"give a smaller --work-size or --size, or remove it."
            )
        torch.cuda.empty_cache()
        return batch // 2

    @torch.inference_mode()
    def _stylize_batch(
        self, pictures: Pixels, choice: Sequence[int], alpha: float, work_size: int | None, transfer: str
    ) -> Pixels:
        styles = torch.tensor(choice, device=self.device)
        output = self._to_device(pictures, torch.float32 if transfer == COLOURS else self.dtype)
        if transfer != COLOURS:
            output = self._run_network(output, styles, alpha, work_size)
        if transfer != FEATURES:
            means, deviations = self.colours
            output = transfer_colours(output, means[styles], deviations[styles], alpha)
        if not torch.isfinite(output).all():
            raise InputError("The stylized pictures are not finite: give --dtype float32, or another --decoder.")
        rounded = output.float().mul(255).round().to(torch.uint8)
        stylized: Pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return stylized

    def _run_network(self, pixels: Tensor, styles: Tensor, alpha: float, work_size: int | None) -> Tensor:
        size = pixels.shape[-2:]
        work = _working_shape(size, work_size)
        if work != size:
            pixels = _resize(pixels, work)
        output: Tensor = self.network(pixels, self.means[styles], self.deviations[styles], alpha)
        return output if work == size else _resize(output, size)


def _resize(pixels: Tensor, shape: Sequence[int]) -> Tensor:
    """Scale (B, 3, H, W) in [0, 1]; in float32, because torch does not scale bfloat16 on CPUs."""
    scaled = F.interpolate(pixels.float(), list(shape), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1).to(pixels.dtype, memory_format=torch.channels_last)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a GPU's memory, or a CPU's, for which PyTorch has no error of its own, was too little."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _check(dtype: str, backend: str) -> None:
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"--backend is {backend!r}: give auto or one of {', '.join(BACKENDS)}.")
    offered = OPENVINO_DTYPES if backend == "openvino" else tuple(DTYPES)
    if dtype not in ("auto", *offered):
        raise InputError(
            f"--dtype is {dtype!r}: give auto or one of {', '.join(DTYPES)}; "
            f"with --backend openvino, {' or '.join(OPENVINO_DTYPES)}."
        )


def _working_shape(shape: Sequence[int], work_size: int | None) -> tuple[int, int]:
    height, width = shape
    if work_size is None:
        return height, width
    scale = work_size / min(height, width)
    return max(work_size, round(height * scale)), max(work_size, round(width * scale))


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
