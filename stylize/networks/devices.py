"""Which device and which floating-point type are fast here, and how fast."""

import time

import torch

from stylize.console import InputError

MATRIX = 2048


def find_device(name: str = "auto") -> torch.device:
    """Return a device by PyTorch's name; "auto" is the first GPU where there is one, else the CPU.

    Raises `InputError` where there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)  # raises where there is no such GPU, or PyTorch was built without
    except (RuntimeError, AssertionError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"There is no device {name!r} here: give auto, cpu or cuda.")
    return device


def find_devices() -> list[str]:
    """Return PyTorch's names of the GPUs here, those of the first one's kind."""
    kinds = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [f"cuda:{number}" for number, kind in enumerate(kinds) if kind == kinds[0]]


def device_kind(device: torch.device) -> str:
    """Return what pixels depend on: a CPU's vector instructions, as PyTorch names them, or a GPU's name."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return f"{device.type} {torch.cuda.get_device_name(device)}"


def best_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def gains_by_winograd(device: torch.device) -> bool:
    """Return whether float32 convolutions are limited by multiplications: on CPUs, unless they have AVX-512."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"


def sums_int8_exactly() -> bool:
    """Return whether the CPU's int8 products are summed in 32 bits; x86 without VNNI or AMX saturates them at 16."""
    # Older versions of PyTorch do not tell.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    exact = any(capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return exact or capabilities.get("architecture") != "x86_64"


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Return FLOP/s of square matrix multiplications, measured for that many seconds after a first one."""
    matrix = torch.ones(MATRIX, MATRIX, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize()

    multiply()
    products, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        multiply()
        products += 1
    return 2 * MATRIX**3 * products / elapsed
