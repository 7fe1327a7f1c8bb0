"""The threads of a run: one for the network, and as many as the machine has cores that decode and encode pictures."""

import gc
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Workers:
    """Executors that all shards of a run share: new threads for every shard would leave their memory arenas behind."""

    network: Executor
    codec: Executor


@contextmanager
def start_workers() -> Iterator[Workers]:
    """Yield the executors; an interruption drops what waits in them."""
    workers = Workers(ThreadPoolExecutor(1), ThreadPoolExecutor(_cores()))
    gc.freeze()  # what is loaded stays: garbage collections among thousands of pictures need not walk through it
    try:
        yield workers
    finally:
        workers.network.shutdown(cancel_futures=True)  # first, because it submits to the other
        workers.codec.shutdown(cancel_futures=True)
        gc.unfreeze()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
