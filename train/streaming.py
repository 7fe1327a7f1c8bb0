"""Shards that stay behind a URL: whole ones in sequence, each checked, by pipelines of the `webdataset` package."""

import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import IterableDataset
from webdataset.compat import FluidInterface

from stylize.console import InputError, counted
from stylize.shards import Sample, read_shard
from stylize.shards.index import check_whole
from stylize.shards.manifest import ORIGIN_NAME, Manifest, ShardEntry, read_manifest
from stylize.shards.remote import RemoteFolder, is_url, shard_files
from train.augment import VIEWS, ImagePreset, SampleBatch
from train.config import TrainConfig
from train.dataset import Pixels, decode_samples, hashed
from train.distributed import World
from train.loading import Batch, Loader, Sent, is_streamed, sendable
from train.methods import METHODS

BUFFER = 1000  # encoded samples that a process shuffles


@dataclass(frozen=True)
class _Shards:
    """Reads whole shards of a folder or, where they are not there, of a URL; each is checked before it is read."""

    folder: Path
    url: str | None
    entries: Mapping[str, ShardEntry]
    copies: int
    classes: int

    def samples(self, source: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, Sample]]:
        """Yield each sample of the shards that a `webdataset` pipeline names, after the shard's name."""
        for name in (item["url"] for item in source):
            with self._lent(self.entries[name]) as path:
                for sample in read_shard(path):
                    if len(sample.styled) != self.copies or sample.label >= self.classes:
                        raise InputError(f"{name}: sample {sample.key} does not fit its manifest: make it again.")
                    yield name, sample

    @contextmanager
    def _lent(self, entry: ShardEntry) -> Iterator[Path]:
        path = self.folder / entry.name
        if self.url is None or path.exists():
            check_whole(path, entry)
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / entry.name
            RemoteFolder(self.url).fetch(entry.name, path, entry.sha256)
            yield path

    def stages(self, seed: int, epoch: int) -> list[Any]:
        """Return stages that yield shuffled samples after their shards' names; the first iteration is of `epoch`.

        Their order depends on the seed, the epoch, and the numbers of nodes and workers.
        """
        seeds = (hashed(seed, "shards"), hashed(seed, "samples"))
        return [
            webdataset.SimpleShardList(sorted(self.entries)),
            webdataset.detshuffle(len(self.entries), len(self.entries), seed=seeds[0], epoch=epoch - 1),
            webdataset.split_by_node,
            webdataset.split_by_worker,
            self.samples,
            webdataset.detshuffle(BUFFER, BUFFER, seed=seeds[1], epoch=epoch - 1),
        ]


def _open(shards: str | Path, split: str, left_out: Container[str] = ()) -> tuple[Manifest, _Shards]:
    """Return the manifest of a folder or URL, and what reads shards of a split."""
    with shard_files(shards) as files:
        manifest = read_manifest(files.folder)
    entries = {shard.name: shard for shard in manifest.entries(split) if shard.name not in left_out}
    if not entries:
        raise InputError(f"{shards} has no shard of the split {split!r}: choose another.")
    if is_url(str(shards)):
        origin: str | None = str(shards)
    else:
        origin = (Path(shards) / ORIGIN_NAME).read_text() if is_streamed(Path(shards)) else None
    folder = Path() if is_url(str(shards)) else Path(shards)
    return manifest, _Shards(folder, origin, entries, manifest.copies(split), len(manifest.class_names))


class PairedStream(webdataset.DataPipeline, FluidInterface):  # type: ignore[misc]
    """The samples of a split of a folder or URL, as a `webdataset` pipeline: `.to_tuple`, `.batched` and others work.

    A sample is a dictionary: `images`, uint8 (1+K, 3, H, W), where image 0 is the original and images 1 to K are its
    stylized copies; `cls`, the label; `__key__` and `__url__`, the shard's name.  Whole shards come in sequence, each
    once an epoch; their order and that of samples are shuffled anew every epoch, equally for the same seed, nodes and
    workers.  Raises `InputError` where a shard differs from its manifest, before its first sample.
    """

    def __init__(self, shards: str | Path, split: str, seed: int = 0) -> None:
        manifest, reader = _open(shards, split)
        super().__init__(*reader.stages(seed, epoch=0), partial(_decoded, size=manifest.spec.get("size")))


def _decoded(source: Iterable[tuple[str, Sample]], size: int | None) -> Iterator[dict[str, Any]]:
    for name, sample in source:
        (pixels,) = decode_samples([(f"{name}: sample {sample.key}", [sample.content, *sample.styled])], size)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        yield {"__key__": sample.key, "__url__": name, "images": images, "cls": sample.label}


class _Read:
    """Samples in memory, to be read as those of `PairedShards`."""

    def __init__(self, samples: Sequence[tuple[str, Sample]], copies: int, size: int | None) -> None:
        self.samples, self.copies, self.size = samples, copies, size
        self.keys = [sample.key for _, sample in samples]
        self.labels = np.array([sample.label for _, sample in samples])

    def read_many(self, indices: Sequence[int], images: Sequence[Sequence[int]]) -> list[Pixels]:
        """Return the chosen images of each sample, V of each, as uint8 (V, H, W, 3)."""
        payloads = [(sample.content, *sample.styled) for _, sample in self.samples]
        names = [f"{name}: sample {sample.key}" for name, sample in self.samples]
        chosen = zip(indices, images, strict=True)
        return decode_samples([(names[i], [payloads[i][part] for part in parts]) for i, parts in chosen], self.size)


class StreamedViews(IterableDataset[tuple[Sent, Sent]]):
    """Batches of augmented samples of `epoch`, as `TrainingViews` makes them; the last one of a worker may be small."""

    def __init__(self, shards: _Shards, preset: ImagePreset, size: int | None, config: TrainConfig) -> None:
        self.shards, self.preset, self.size, self.config, self.epoch = shards, preset, size, config, 0

    def __iter__(self) -> Iterator[tuple[Sent, Sent]]:
        seed, fraction = self.config.seed, self.config.stylized_fraction
        make = VIEWS[METHODS[self.config.method].views].make
        samples = iter(webdataset.DataPipeline(*self.shards.stages(seed, self.epoch)))
        while some := list(islice(samples, self.config.batch_size)):
            read = _Read(some, self.shards.copies, self.size)
            batch = SampleBatch(read, [], self.preset, seed, self.epoch, range(len(some)), fraction)
            yield sendable(make(batch)), sendable(torch.from_numpy(read.labels))


class StreamedBatches(Iterable[Batch]):
    """Batches of one process from shards of which some are behind a URL: `EpochBatches` and their loader in one.

    Every process gets the same number of full batches, whichever shards it is given.
    """

    def __init__(
        self, shards: Path, held_out: set[str], preset: ImagePreset, config: TrainConfig, world: World, workers: int
    ) -> None:
        if VIEWS[METHODS[config.method].views].others:
            raise InputError(
                f"The method {config.method!r} shows other images of a class, so all shards must be in the cache: "
                "raise --cache-gb."
            )
        manifest, reader = _open(shards, "train", held_out)
        sizes = sorted(entry.samples for entry in reader.entries.values())
        self.images, self.batch_size = sum(sizes), config.batch_size
        self.steps = sum(sizes[: len(sizes) // world.size]) // config.batch_size  # of who is given the smallest ones
        if self.steps == 0:
            raise InputError(
                f"{counted(len(sizes), 'training shard')} cannot fill a batch of {config.batch_size} on each of "
                f"{counted(world.size, 'process', 'processes')}: lower --batch-size, or raise --cache-gb."
            )
        self._views = StreamedViews(reader, preset, manifest.spec.get("size"), config)
        pin_memory = world.device.type == "cuda"
        self._loader = Loader(workers, dataset=self._views, batch_size=None, collate_fn=tuple, pin_memory=pin_memory)
        self.select(epoch=0)

    def select(self, epoch: int, first_step: int = 0, count: int | None = None) -> None:
        """Choose what the next iteration yields, as `EpochBatches` does; what comes before is read and left out."""
        self._views.epoch, self._first_step = epoch, first_step
        self._end = self.steps if count is None else min(self.steps, first_step + count)

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._full(), self._first_step, self._end)

    def _full(self) -> Iterator[Batch]:
        """Yield the full batches of all workers in turn, and then those that their rests make."""
        rests: list[Batch] = []
        for images, labels in self._loader:
            if len(labels) == self.batch_size:
                yield images, labels
            else:
                rests.append((images, labels))
        if rests:
            images, labels = (torch.cat(parts) for parts in zip(*rests, strict=True))
            for start in range(0, len(labels) - self.batch_size + 1, self.batch_size):
                yield images[start : start + self.batch_size], labels[start : start + self.batch_size]
