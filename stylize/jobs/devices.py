"""Make shards in several processes of this machine, each of which opens the job on a device."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import cast

import torch

from stylize.console import InputError, Report
from stylize.jobs.job import Failure, Job
from stylize.jobs.spec import ShardPlan, Spec
from stylize.networks.devices import find_devices

CORES_PER_PROCESS = 4  # which one process keeps busy with decoding and encoding, as Python's threads take turns
SHARDS_PER_PROCESS = 25  # from which another process on a GPU saves the seconds that it takes to start
Make = Callable[[Job, Report, Path, Iterable[ShardPlan]], list[Failure]]


def share_devices(shards: int) -> list[str]:
    """Return the device of every process that should make so many shards: all GPUs here, each several times.

    One process cannot decode and encode as fast as a GPU stylizes, and shards need nothing of each other.
    """
    devices = find_devices()
    processes = min(torch.get_num_threads() // CORES_PER_PROCESS, shards // SHARDS_PER_PROCESS)
    return [device for _ in range(max(1, processes // max(1, len(devices)))) for device in devices][:shards]


def make_on_devices(
    make: Make, job: Job, devices: Sequence[str], report: Report, staging: Path, shards: Sequence[ShardPlan]
) -> list[Failure]:
    """Make the shards, each process as many as the next; return the images that could not be used.

    `make` does so in one process. Raises `InputError` where a process fails or dies; finished shards are kept.
    """
    context = get_context("spawn")
    processes, places = [], {}
    try:
        for number, device in enumerate(devices):
            reader, writer = context.Pipe(duplex=False)
            share = shards[number :: len(devices)]
            arguments = (make, job.reopen, device, job.spec, staging, share, writer)
            processes.append(context.Process(target=_make_share, args=arguments, daemon=True))
            processes[-1].start()
            writer.close()  # so that the reader sees the process's end
            places[reader] = device
        return _gather(places, report)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _gather(places: dict[connection.Connection, str], report: Report) -> list[Failure]:
    failures: list[Failure] = []
    while places:
        for reader in cast("list[connection.Connection]", connection.wait(list(places))):
            try:
                message = reader.recv()
            except EOFError:
                raise InputError(
                    f"The process of device {places[reader]} ended early: look at the memory, and run the same command."
                ) from None
            if isinstance(message, str):
                raise InputError(message)
            if isinstance(message, int):
                report(message)
            else:
                failures += message
                del places[reader]
    return failures


def _make_share(
    make: Make,
    reopen: Callable[[str], Job],
    device: str,
    spec: Spec,
    staging: Path,
    plans: Sequence[ShardPlan],
    results: connection.Connection,
) -> None:
    """Send the numbers of finished images, and in the end the failures, or what was wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers, and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if device != "cpu":
            torch.cuda.set_device(device)
        job = reopen(device)
        if job.spec != spec:
            raise InputError(f"Device {device} would make other shards than the first: name devices of one kind.")
        results.send(make(job, results.send, staging, plans))
    except InputError as error:
        results.send(str(error))


def _end_with_parent() -> None:
    """End this process when its parent is killed, which could not end it."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
