"""Shards of a small run, compared with hashes recorded before: a change of layout or of speed must not change bytes."""

from pathlib import Path

import PIL
import pytest
import torch

from stylize.runs.job import open_job
from stylize.runs.run import make_shards
from stylize.runs.spec import ShardOptions
from stylize.shards.format import file_sha256

# Recorded with these versions on a CPU with AVX2; others round, encode or draw differently.
RECORDED_ON = {"capability": "AVX2", "torch": "2.14", "pillow": "13."}
RECORDED = {
    "test-000000.tar": "8eaab45da8a21d433d51cd4d3909018633ad16885b9ca4f6361178e028866455",
    "train-000000.tar": "460d74d4a29f87bd01cd902fde8fe74b59a5710d91cd703312c926a960dfb4b3",
}


def same_machine() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    versions = torch.__version__.startswith(RECORDED_ON["torch"]), PIL.__version__.startswith(RECORDED_ON["pillow"])
    return capability == RECORDED_ON["capability"] and all(versions) and not torch.cuda.is_available()


@pytest.mark.skipif(not same_machine(), reason=f"hashes were recorded with {RECORDED_ON}")
def test_a_run_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    options = ShardOptions(("swirls", "marble"), "shapes", size=32, limit=40, styles_per_image=2, dtype="float32")
    make_shards(open_job(options), tmp_path / "out")
    assert {path.name: file_sha256(path) for path in sorted((tmp_path / "out").glob("*.tar"))} == RECORDED
