"""What very many shards cost before any image does: the manifest, its files, the cuts of a job, a data set's index.

    python -m benchmarks.many_shards [--shards 100000] [--samples 1] [--images 1280000]

The shards are real and tiny; seconds and bytes per shard are what counts. Every step is a process of its own, whose
peak memory is what the system reports when it ends.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.memory import measure

MAKE = """
from pathlib import Path
import io, sys
from PIL import Image
from stylize.files import file_sha256
from stylize.shards import Sample, write_shard
from stylize.shards.manifest import Manifest, ShardEntry, write_manifest
folder, shards, samples = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
buffer = io.BytesIO()
Image.new("RGB", (16, 16)).save(buffer, "JPEG")
picture, metadata = buffer.getvalue(), {"source": "x", "source_sha256": "0" * 64, "styles": ["dots"], "alpha": 1.0}
def make(number):
    path = folder / f"train-{number:06d}.tar"
    keys = (f"{number * samples + i:08d}" for i in range(samples))
    count = write_shard(path, (Sample(key, picture, (picture,), 0, metadata) for key in keys))
    return ShardEntry(path.name, "train", count, path.stat().st_size, file_sha256(path))
import os
os.fsync = lambda file: None  # of the simulation alone
spec = {"class_names": ["a"], "size": 16, "styles_per_image": 1, "codec": "jpg", "alpha": 1.0}
spec |= {"styles": [{"name": "dots", "sha256": "0" * 64}], "counts": {"train": shards * samples, "test": 0}}
write_manifest(folder, Manifest(spec, tuple(map(make, range(shards)))))
"""
STEPS = {
    "read the manifest": "from stylize.shards.manifest import read_manifest; read_manifest(folder)",
    "verify everything": "from stylize.shards.verify import verify_shards; assert verify_shards(folder) == []",
    "start to train, by the tars": "from train.dataset import PairedShards; PairedShards(folder, 'train')",
    "write the table of samples": (
        "from stylize.shards.manifest import read_manifest; from stylize.shards.index import write_indices\n"
        "write_indices(folder, read_manifest(folder))"
    ),
    "start to train, by the table": "from train.dataset import PairedShards; PairedShards(folder, 'train')",
    "read 1,000 samples at random": (
        "from train.dataset import PairedShards; import numpy; samples = PairedShards(folder, 'train')\n"
        "for i in numpy.random.default_rng(0).integers(0, len(samples), 1000): samples[int(i)]"
    ),
}
PLAN = """
from types import SimpleNamespace
from stylize.jobs.spec import plan_shards
images = int(sys.argv[2])
spec = SimpleNamespace(seed=0, counts={"train": images}, samples_per_shard=1000)
source = SimpleNamespace(splits=("train",), count=lambda split: images)
next(plan_shards(spec, source))
"""
PREAMBLE = """
import sys
from pathlib import Path
import stylize.jobs.spec, stylize.shards.verify, train.dataset
folder = Path(sys.argv[1])
"""


def main(
    shards: Annotated[int, typer.Option(help="How many to simulate.")] = 100_000,
    samples: Annotated[int, typer.Option(help="In each of them.")] = 1,
    images: Annotated[list[int], typer.Option(help="Of jobs to cut into shards.")] = [1_280_000, 10_000_000],  # noqa: B006
) -> None:
    """Measure and print what each step takes, and what of that is Python's start."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        seconds, _ = measure(MAKE, folder, shards, samples)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.tar"))
        manifest = (Path(folder) / "manifest.json").stat().st_size
        print(f"{shards} shards, {size / 1e9:.2f} GB, manifest {manifest / 1e6:.1f} MB, made in {seconds:.0f} s")
        for name, code in {"start alone": "pass", **STEPS}.items():
            seconds, mebibytes = measure(PREAMBLE + code, folder)
            print(f"{name}: {seconds:.1f} s, peak {mebibytes:.0f} MiB")
        for count in images:
            seconds, mebibytes = measure(PREAMBLE + PLAN, folder, count)
            print(f"cut {count} images into shards: {seconds:.1f} s, peak {mebibytes:.0f} MiB")


if __name__ == "__main__":
    typer.run(main)
