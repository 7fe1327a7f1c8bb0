"""What a competent user would write instead of this project's networks: batched AdaIN by PyTorch or OpenVINO alone."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stylize.console import InputError, console
from stylize.networks.adain import Layer
from stylize.networks.devices import best_dtype
from stylize.networks.openvino import import_openvino
from stylize.networks.weights import Pair

BATCH_PIXELS = 8 * 224 * 224
Run = Callable[[], int]  # stylizes a batch by all threads, and returns its images


class BatchedAdaIN(nn.Module):
    """The published networks of PyTorch's own layers, channels last, for one style (equations 2 to 4 of the paper)."""

    def __init__(self, pair: Pair, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_layers(pair.encoder.network.chain))
        self.decoder = nn.Sequential(*_layers(pair.decoder.chain))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Stylize (B, 3, H, W) in [0, 1], H and W multiples of 8."""
        features = self.encoder(pixels)
        std, mean = torch.std_mean(features, dim=(2, 3), keepdim=True, correction=0)
        stylized: Tensor = self.decoder((features - mean) / std * self.std + self.mean)
        return stylized.clamp(0, 1)


def _layers(chain: Sequence[Layer]) -> Iterator[nn.Module]:
    for layer in chain:
        if layer.resampling:
            yield nn.MaxPool2d(2) if layer.resampling == "pool" else nn.Upsample(scale_factor=2)
        own = layer.convolution
        convolution = nn.Conv2d(own.in_channels, own.out_channels, 3, padding=1, padding_mode="reflect")
        convolution.load_state_dict(own.state_dict())
        yield convolution
        if layer.rectified:
            yield nn.ReLU(inplace=True)


def rivals(pair: Pair, mean: Tensor, std: Tensor, side: int, device: torch.device) -> dict[str, Run]:
    """Return what runs each rival on a batch of pictures in memory; those that cannot run here are named and left out.

    A type that the device does not multiply in hardware is left out too.
    """
    ways: dict[str, Callable[[nn.Module, Tensor], Run]]
    ways = {"eager": _eager, "torch.compile": _compiled, "OpenVINO's converter": _converted}
    if device.type != "cpu":
        del ways["OpenVINO's converter"]
    found: dict[str, Run] = {}
    exact = BatchedAdaIN(pair, mean, std).eval().requires_grad_(False)
    images = torch.rand(max(1, BATCH_PIXELS // side**2), 3, side, side, generator=torch.Generator().manual_seed(0))
    for dtype in dict.fromkeys((best_dtype(device), torch.float32)):
        network = copy.deepcopy(exact).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        pixels = images.to(device, dtype, memory_format=torch.channels_last)
        for name, way in ways.items():
            column = f"{name} {str(dtype).removeprefix('torch.')}"
            try:
                found[column] = way(network, pixels)
            except (InputError, RuntimeError) as error:
                console.print(f"Left out: {column} ({str(error).splitlines()[0]})")
    return found


def _eager(network: Callable[[Tensor], Tensor], pixels: Tensor) -> Run:
    @torch.no_grad()
    def run() -> int:
        network(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize()
        return len(pixels)

    return run


def _compiled(network: nn.Module, pixels: Tensor) -> Run:
    on_gpu = pixels.is_cuda  # where kernels are chosen by measuring, and recorded
    options: dict[str, str | int | bool | Callable[..., object]]
    options = {"freezing": True, "max_autotune": on_gpu, "triton.cudagraphs": on_gpu}  # frozen weights are packed once
    run = _eager(torch.compile(network, options=options), pixels)
    run()
    return run


def _converted(network: nn.Module, pixels: Tensor) -> Run:
    openvino = import_openvino()
    with warnings.catch_warnings(action="ignore"):  # of tracing
        exact = copy.deepcopy(network).float()
        model = openvino.convert_model(exact, example_input=pixels.float(), input=list(pixels.shape))
    precision = "f32" if pixels.dtype == torch.float32 else "bf16"
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **options})
    values = pixels.float().contiguous().numpy()
    return lambda: len(compiled([values])[0])
