"""Read and decode a shard's images ahead of the network, in threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stylize.engine.engine import Pixels
from stylize.runs.job import Failure, Job
from stylize.runs.spec import ShardPlan
from stylize.sources.pictures import PictureError

CHUNK_IMAGES = 256  # at most so many are read ahead, or go to the network together
READ_AHEAD_VALUES = 128_000_000
GUESSED_SIDE = 1000  # of images that keep their own size, to bound how many are read ahead
TASK_VALUES = 50_000  # that a thread decodes or encodes at a time: handing on a tiny picture costs as much
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceImage:
    """An image as it was read, as it will be stored, its pixels (H, W, 3), and what looked wrong in decoding it."""

    index: int
    source: bytes
    content: bytes
    pixels: Pixels
    warnings: tuple[str, ...] = ()


def cut_tasks(items: Sequence[Item], values: int) -> Iterator[Sequence[Item]]:
    """Cut items of about so many pixel values into tasks for a thread."""
    size = max(1, TASK_VALUES // values)
    return (items[start : start + size] for start in range(0, len(items), size))


def read_images(job: Job, plan: ShardPlan, failures: list[Failure], pool: Executor) -> Iterator[SourceImage]:
    """Yield a shard's usable images in their order, with the next ones already being read."""
    waiting: deque[Future[list[SourceImage | Failure]]] = deque()
    side = job.spec.size or GUESSED_SIDE
    ahead = max(1, min(CHUNK_IMAGES, READ_AHEAD_VALUES // (3 * side * side)))
    for indices in cut_tasks(plan.indices, 3 * side * side):
        waiting.append(pool.submit(list, map(partial(read_image, job, plan.split), indices)))
        if len(waiting) * len(indices) > ahead:
            yield from _usable(waiting.popleft().result(), failures)
    for future in waiting:
        yield from _usable(future.result(), failures)


def _usable(images: Sequence[SourceImage | Failure], failures: list[Failure]) -> Iterator[SourceImage]:
    for image in images:
        if isinstance(image, Failure):
            failures.append(image)
        else:
            yield image


def read_image(job: Job, split: str, index: int) -> SourceImage | Failure:
    """Read and decode one image, or say why it cannot be used."""
    try:
        source = job.source.read(split, index)
        content = job.codec.read_content(source, job.spec.size)
    except PictureError as error:
        return Failure(split, job.source.path(split, index), str(error))
    return SourceImage(index, source, *content)
