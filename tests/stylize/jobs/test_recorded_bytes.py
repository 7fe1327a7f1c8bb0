"""Shards of a small run, compared with hashes recorded before: a change of layout or of speed must not change bytes."""

from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from stylize.files import file_sha256
from stylize.jobs.job import open_job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions

# Recorded with these versions on a CPU with AVX2; others round, encode or draw differently.
RECORDED_ON = {"capability": "AVX2", "torch": "2.14", "pillow": "13.", "simplejpeg": "1.9"}
RECORDED = {
    "test-000000.tar": "dceb857fdeb5d84d7f45dcd253e5d7f6095655488001e26c1d9c28982fa7e684",
    "train-000000.tar": "d7e14dd80507db4da287f9dcc899546d9c9916a9eb0c404974f7797be58fc1f3",
}


def same_machine() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    known = all(version(name).startswith(RECORDED_ON[name]) for name in ("torch", "pillow", "simplejpeg"))
    return capability == RECORDED_ON["capability"] and known and not torch.cuda.is_available()


@pytest.mark.skipif(not same_machine(), reason=f"hashes were recorded with {RECORDED_ON}")
def test_a_run_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    options = ShardOptions(("swirls", "marble"), "shapes", size=32, limit=40, styles_per_image=2, dtype="float32")
    make_shards(open_job(options), tmp_path / "out")
    assert {path.name: file_sha256(path) for path in sorted((tmp_path / "out").glob("*.tar"))} == RECORDED
