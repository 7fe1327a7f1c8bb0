"""Other loaders of shuffled pairs, decoded by simplejpeg: without crop, flip and checks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import simplejpeg

from stylize.console import console
from train.dataset import PairedShards

MOST_PAIRS = 10_000  # that are written in a rival's own format
CHUNK_BYTES = 1 << 26
Pair = tuple[bytes, bytes]


def rival_loaders(shards: Path, samples: PairedShards, folder: Path) -> dict[str, Callable[[], int]]:
    """Return what reads and decodes a pair, by the loader's name; those that are not installed are named and left out.

    Those with a format of their own get at most 10,000 pairs of the samples in it, in the folder.
    """
    found = {}
    for name, endless in {"webdataset": _webdataset, "LitData": _litdata, "MosaicML streaming": _streaming}.items():
        pairs = endless(shards, samples, folder / name)
        try:
            next(pairs)
        except ImportError as error:
            console.print(f"Left out: {name} ({error}): pip install 'stylized-pairing[bench]'")
        else:
            found[name] = _decoding(pairs)
    return found


def _decoding(pairs: Iterator[Pair]) -> Callable[[], int]:
    return lambda: len([simplejpeg.decode_jpeg(payload) for payload in next(pairs)])


def _payloads(samples: PairedShards) -> Iterator[Pair]:
    for index in range(min(len(samples), MOST_PAIRS)):
        original, copy = samples.index.read(index, [0, 1])
        yield bytes(original), bytes(copy)


def _webdataset(shards: Path, _samples: PairedShards, _folder: Path) -> Iterator[Pair]:
    import webdataset

    paths = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    for sample in webdataset.WebDataset(paths, shardshuffle=len(paths)).shuffle(1000).repeat():
        original, copy, *_ = (sample[name] for name in sorted(sample) if name.endswith("jpg"))
        yield original, copy


def _litdata(_shards: Path, samples: PairedShards, folder: Path) -> Iterator[Pair]:
    from litdata import StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes=CHUNK_BYTES)
    for index, pair in enumerate(_payloads(samples)):
        cache[index] = pair
    cache.done()
    cache.merge()
    dataset = StreamingDataset(str(folder), shuffle=True)
    while True:
        yield from dataset


def _streaming(_shards: Path, samples: PairedShards, folder: Path) -> Iterator[Pair]:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns={"original": "bytes", "copy": "bytes"}) as writer:
        for original, copy in _payloads(samples):
            writer.write({"original": original, "copy": copy})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=1)
    while True:
        yield from ((sample["original"], sample["copy"]) for sample in dataset)
