"""The threads of a run: some for the network, one a core that decode and encode pictures, and two that write shards."""

import gc
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import torch


@dataclass(frozen=True)
class Workers:
    """Executors that all shards of a run share: new threads for every shard would leave their memory arenas behind."""

    streams: int  # threads of the network
    threads: int  # of PyTorch, which the streams share
    network: Executor
    codec: Executor
    shards: Executor  # two, so that the network goes on while the end of a shard is being written
    turn: Lock = field(default_factory=Lock)  # of the shard whose images go to the network
    alone: Lock = field(default_factory=Lock)  # of the stream that has all threads

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Give the calling stream all threads for a large picture; another's waits, so that memory holds one."""
        with self.alone:
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                torch.set_num_threads(max(1, self.threads // self.streams))


@contextmanager
def start_workers(streams: int) -> Iterator[Workers]:
    """Yield the executors, the network's with `streams` threads; an interruption drops what waits in them.

    Every stream has its share of PyTorch's threads, at best one: streams do not wait for each other, whereas all
    threads of one operation wait for the one whose core has just decoded a picture.
    """
    threads = torch.get_num_threads()
    share = (max(1, threads // streams),)
    network = ThreadPoolExecutor(streams, initializer=_use_threads, initargs=share)
    workers = Workers(streams, threads, network, ThreadPoolExecutor(_cores()), ThreadPoolExecutor(2))
    gc.freeze()  # what is loaded stays: garbage collections among thousands of pictures need not walk through it
    try:
        yield workers
    finally:
        workers.shards.shutdown(wait=False, cancel_futures=True)
        workers.network.shutdown(cancel_futures=True)  # before the next, because it submits to it
        workers.codec.shutdown(cancel_futures=True)
        workers.shards.shutdown()
        gc.unfreeze()
        torch.set_num_threads(threads)  # of threads yet to start: the streams' share had become their default


def _use_threads(share: int) -> None:
    """Set a new thread's share of PyTorch's threads; its first question makes PyTorch set its default, so before."""
    torch.get_num_threads()
    torch.set_num_threads(share)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
