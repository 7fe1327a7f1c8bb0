"""Where a result was made: versions and hardware."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the sections `versions` and `hardware` of a document."""
    packages = {"torch": str(torch.__version__), "torchvision": version("torchvision"), "numpy": np.__version__}
    used = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "versions": {"python": platform.python_version(), **packages},
        "hardware": {"cpu": _cpu_name(), "threads": torch.get_num_threads(), "device": used},
    }


def _cpu_name() -> str:
    """Return the processor's name; Linux tells it in /proc/cpuinfo only."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
