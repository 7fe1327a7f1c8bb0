"""The stylizer: uint8 images in, uint8 images out, on one device, with style statistics computed once."""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stylize.console import InputError
from stylize.networks import COLOURS, FEATURES, MIN_SIDE, check_transfer
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder, adain, channel_statistics, rearranged, unit_range
from stylize.networks.devices import best_dtype, find_device, gains_by_winograd
from stylize.networks.openvino import bfloat16_network, int8_network
from stylize.networks.styles import Style, load_styles
from stylize.networks.weights import load_pair
from stylize.shards.decode import decode_picture

Pixels = NDArray[np.uint8]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
OPENVINO_DTYPES = (INT8, "bfloat16")
BACKENDS = ("torch", "openvino")
# Pixels per network batch; fixed, because a kernel's rounding may depend on the batch. On a CPU every thread has a
# batch of its own, and small ones suit its caches; a GPU needs many pixels to be busy.
BATCH_PIXELS = {"cpu": 224 * 224, "openvino": 2 * 224 * 224, "cuda": 64 * 224 * 224}
STREAM_PIXELS = 512 * 768  # up to which a CPU's every thread has a batch of its own; larger ones take all, one by one
MIN_CORRELATION = 0.6  # of a picture and its reconstruction; a decoder of another encoder stays near 0
MIN_PSNR = 30.0  # of the shipped pair's golden picture, in decibels; bfloat16 on any device reaches 35


class Stylizer:
    """Encoder, decoder and styles, run by one backend on one device in one floating-point type.

    The backend "auto" is PyTorch, whatever is installed: int8 gives other pixels, so it is used on request only.
    PyTorch computes the style statistics in any case.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        styles: Sequence[Style],
        dtype: str = "auto",
        backend: str = "auto",
        device: str = "auto",
    ) -> None:
        _check_backend(dtype, backend)
        self.backend = "torch" if backend == "auto" else backend
        openvino = self.backend == "openvino"
        self.device = torch.device("cpu") if openvino else find_device(device)
        if dtype == "auto":
            dtype = INT8 if openvino else str(best_dtype(self.device)).removeprefix("torch.")
        self.dtype_name = dtype  # as the manifest records it
        self.dtype = torch.float32 if openvino else DTYPES[dtype]  # of what goes in and out of the network
        # A copy: the conversion below works in place, and the caller's networks may serve other stylizers.
        pair = copy.deepcopy((encoder, decoder))
        winograd = self.dtype == torch.float32 and gains_by_winograd(self.device)
        network = AdaINNetwork(*pair) if openvino else rearranged(*pair, winograd)
        self.network = network.eval().to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_pixels = BATCH_PIXELS[self.backend if openvino else self.device.type]
        self.largest_batch = self.batch_pixels  # of any size of picture; less once a GPU ran out of memory
        self.recorded: dict[str, bool] = {}  # in specifications, beside what all stylizers are asked for
        self.use_styles(styles)
        if openvino:
            calibrated = (encoder, decoder, self.means, self.stds)
            self.network = int8_network(*calibrated) if dtype == INT8 else bfloat16_network(encoder, decoder)

    @classmethod
    def load(
        cls,
        styles: Sequence[str],
        encoder: str | Path | None = None,
        decoder: str | Path | None = None,
        dtype: str = "auto",
        backend: str = "auto",
        device: str = "auto",
        style_size: int | None = None,
    ) -> Self:
        """Load networks and styles by name or path.

        Args:
            styles: Built-in names, "patterns" for all of them, or paths of pictures, folders, zips or fitted styles.
            encoder: None for the embedded VGG-19, "vgg19-torchvision", or a file of `stylize weights import`.
            decoder: A file of `stylize fit-decoder`; None for the shipped one.
            dtype: "float32", "bfloat16" or "float16"; with OpenVINO "int8" or "bfloat16". "auto" is the fastest
                floating-point type of the device, or int8.
            backend: "torch", "openvino", or "auto", which is PyTorch.
            device: As PyTorch names it; "auto" is the first GPU where there is one, else the CPU.
            style_size: Short side of the style pictures in pixels, 256 by default.

        Raises:
            InputError: A name or file cannot be used, or this machine cannot run what is asked for.
        """
        pair = load_pair(str(encoder) if encoder else None, Path(decoder) if decoder else None)
        loaded = load_styles(styles, pair.decoder_sha256, style_size)
        return cls(pair.encoder.network, pair.decoder, loaded, dtype, backend, device)

    def __call__(
        self,
        images: Pixels,
        choice: Sequence[int] | None = None,
        alpha: float | Sequence[float] = 1.0,
        work_size: int | None = None,
        transfer: str = FEATURES,
    ) -> Pixels:
        """Stylize images of one size.

        Args:
            images: RGB, uint8 (N, H, W, 3), at least 16 pixels a side.
            choice: The index of each image's style; by default the styles take turns.
            alpha: Strength in [0, 1], of all images or of each; 0 only encodes and decodes.
            work_size: Short side in pixels at which the networks work, if not the images' own.
            transfer: "features" (AdaIN), "colours" (means and standard deviations of RGB alone), or "both".

        Returns:
            The stylized images, of the same shape and type.

        Raises:
            InputError: An argument is out of its range, one image is too large for the memory, or the output is not
                finite.
        """
        choice = [index % len(self.means) for index in range(len(images))] if choice is None else choice
        check_transfer(transfer, work_size)
        alphas = [alpha] * len(images) if isinstance(alpha, float | int) else list(alpha)
        self._check_images(images, choice, alphas)
        _, height, width, _ = images.shape
        batch = min(self.largest_batch, self.batch_size(height, width, work_size))
        outputs: list[Pixels] = [images[:0]]
        while (done := sum(map(len, outputs))) < len(images):
            part = slice(done, done + batch)
            try:
                own = alpha if isinstance(alpha, float | int) else self._column(alphas[part])
                with _own_stream(self.device):
                    outputs.append(self._stylize_batch(images[part], choice[part], own, work_size, transfer))
            except RuntimeError as error:
                # PyTorch has no error class for a CPU's memory.
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                batch = self.largest_batch = self._halved(batch, f"{width}×{height}")
        return np.concatenate(outputs)

    def batch_size(self, height: int, width: int, work_size: int | None = None) -> int:
        """Return how many images of a size are one batch of the network, if stylized with that short side."""
        height, width = _working_shape((height, width), work_size)
        return max(1, self.batch_pixels // (height * width))

    @property
    def streams(self) -> int:
        """How many batches should run side by side: one for each thread of a CPU, or one on a GPU and one copied."""
        return torch.get_num_threads() if self.device.type == "cpu" else 2

    def is_large(self, height: int, width: int, work_size: int | None = None) -> bool:
        """Return whether images of a size should be alone on the network: the memory of several would add up."""
        working_height, working_width = _working_shape((height, width), work_size)
        return max(height * width, working_height * working_width) > STREAM_PIXELS

    @torch.inference_mode()
    def compile(self) -> str | None:
        """Compile the network, once for square pictures of any size; return why that cannot be done here, if so.

        Nothing is chosen by measuring, so that the pixels are those of every run on this kind of device.
        """
        # Without a graph break, and by symbolic shapes: a break would compile layer by layer.
        compiled: Any = torch.compile(self.network, fullgraph=True, dynamic=True, options={"deterministic": True})
        pixels = torch.zeros(2, 3, 4 * MIN_SIDE, 4 * MIN_SIDE, device=self.device, dtype=self.dtype)
        try:
            compiled(pixels.contiguous(memory_format=torch.channels_last), self.means[[0, 0]], self.stds[[0, 0]], 1.0)
        except Exception as error:  # a compiler may lack anything
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self.network, self.recorded = compiled, {"compiled": True}
        return None

    @torch.inference_mode()
    def use_styles(self, styles: Sequence[Style]) -> None:
        """Take other styles instead; with PyTorch only, whose encoder computes the statistics."""
        features = [
            style.fitted.on(self.device)
            if style.fitted
            else self.network.style_statistics(self._to_device(style.array, self.dtype))
            for style in styles
        ]
        colours = [channel_statistics(self._to_device(style.array, torch.float32)) for style in styles]
        self.means, self.stds = (torch.cat(values) for values in zip(*features, strict=True))
        self.colours = tuple(torch.cat(values) for values in zip(*colours, strict=True))

    def _to_device(self, images: Pixels, dtype: torch.dtype) -> Tensor:
        pixels = torch.from_numpy(np.array(images))
        if self.device.type == "cuda":  # only pinned memory is copied while the GPU works
            pixels = pixels.pin_memory()
        return unit_range(pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2), dtype)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)

    def _check_images(self, images: Pixels, choice: Sequence[int], alphas: Sequence[float]) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise InputError(f"The images are {images.dtype} {images.shape}: give uint8 (N, H, W, 3).")
        styles = len(self.means)
        if len(choice) != len(images) or not all(-styles <= index < styles for index in choice):
            raise InputError(f"choice has {len(choice)} entries for {len(images)} images: give each 0 to {styles - 1}.")
        if len(alphas) != len(images):
            raise InputError(f"alpha has {len(alphas)} entries for {len(images)} images: give one for each.")
        if wrong := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
            raise InputError(f"alpha is {wrong[0]}: give 0 to 1.")

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
        self, images: Pixels, choice: Sequence[int], alpha: float | Tensor, work_size: int | None, transfer: str
    ) -> Pixels:
        styles = torch.tensor(choice, device=self.device)
        output = self._to_device(images, torch.float32 if transfer == COLOURS else self.dtype)
        if transfer != COLOURS:
            output = self._run_network(output, styles, alpha, work_size)
        if transfer != FEATURES:  # AdaIN of the pixels themselves (Reinhard et al. 2001, in RGB)
            means, stds = self.colours
            output = adain(output.float(), means[styles], stds[styles], alpha).clamp(0, 1)
        if not torch.isfinite(output).all():
            raise InputError("The stylized pictures are not finite: give --dtype float32, or another --decoder.")
        rounded = output.float().mul(255).round().to(torch.uint8)
        stylized: Pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return stylized

    def _run_network(self, pixels: Tensor, styles: Tensor, alpha: float | Tensor, work_size: int | None) -> Tensor:
        size = pixels.shape[-2:]
        work = _working_shape(size, work_size)
        if min(work) < MIN_SIDE:
            raise InputError(f"The images have {size[1]}×{size[0]} pixels, the limit is {MIN_SIDE} a side.")
        if work != size:
            pixels = _resize(pixels, work)
        batch: tuple[Tensor, ...] = pixels, self.means[styles], self.stds[styles]
        if self.recorded and len(pixels) == 1:  # for a single picture, all would be compiled again
            batch = tuple(torch.cat([one, one]) for one in batch)
        output: Tensor = self.network(*batch, alpha)[: len(pixels)]
        return output if work == size else _resize(output, size)


_THREAD = threading.local()


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Run a thread's work on a GPU in a stream of its own: one thread's copies go beside another's computations."""
    if device.type == "cpu":
        yield
        return
    streams: dict[torch.device, torch.cuda.Stream] = _THREAD.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    streams[device].wait_stream(torch.cuda.default_stream(device))  # which computed the styles' statistics
    with torch.cuda.stream(streams[device]):
        yield


def _check_backend(dtype: str, backend: str) -> None:
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


def _resize(pixels: Tensor, shape: Sequence[int]) -> Tensor:
    """Scale (B, 3, H, W) in [0, 1]; in float32, because torch does not scale bfloat16 on CPUs."""
    scaled = F.interpolate(pixels.float(), list(shape), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1).to(pixels.dtype, memory_format=torch.channels_last)


def golden_pictures() -> tuple[Pixels, Pixels, Pixels]:
    """Return content, style and the content as the shipped pair stylizes it in float32, each (64, 64, 3)."""
    strip = np.asarray(decode_picture(Path(str(files("stylize.networks") / "shipped" / "golden.png")).read_bytes()))
    content, style, stylized = np.split(strip, 3, axis=1)
    return content, style, stylized


def golden_style() -> Style:
    """Return the self-test's style."""
    return Style("golden", "", Image.fromarray(golden_pictures()[1]))


def self_test(stylizer: Stylizer, shipped: bool) -> None:
    """Raise `InputError` where a stylizer, whose last style is `golden_style()`, cannot reconstruct a picture.

    Or where it misses the golden picture although its networks are the `shipped` pair, whose output is known.
    """
    content, _, golden = golden_pictures()
    if correlation(content, stylizer(content[None], [-1], alpha=0.0)[0]) < MIN_CORRELATION:
        raise InputError("The decoder does not reconstruct the self-test's picture: give a trained --decoder.")
    if shipped and psnr(golden, stylizer(content[None], [-1])[0]) < MIN_PSNR:
        raise InputError(
            f"The self-test's picture comes out wrong in {stylizer.dtype_name} on {stylizer.device}: "
            "try --backend torch --dtype float32."
        )


def correlation(first: Pixels, second: Pixels) -> float:
    """Return the correlation of two pictures' values; 0 where one of them is constant."""
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.corrcoef(first.ravel(), second.ravel())[0, 1]))


def psnr(first: Pixels, second: Pixels) -> float:
    """Return the peak signal-to-noise ratio in decibels; infinite for equal pictures."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
