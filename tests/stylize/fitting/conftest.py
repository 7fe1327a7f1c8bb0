"""A pool of small pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.fitting.data import Pool, open_pool
from stylize.networks.stylizer import Pixels


@pytest.fixture
def pool(tmp_path: Path, noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> Pool:
    for kind, start in (("photos", 0), ("paintings", 100)):
        (tmp_path / kind).mkdir()
        for index in range(6):
            (tmp_path / kind / f"{index}.png").write_bytes(encode(noise(start + index, 24, 30)))
    return open_pool(tmp_path / "photos", [str(tmp_path / "paintings")], [], 0.0)
