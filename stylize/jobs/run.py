"""Run a job on this machine, on one device or several, whole or in parts of a job array."""

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import torch

from stylize.console import InputError, Report, counted, silent
from stylize.files import write_atomically
from stylize.interruption import end_with_parent
from stylize.jobs.estimate import size_advice
from stylize.jobs.job import Failure, Job
from stylize.jobs.make_shard import Workers, make_shard, read_image, start_workers
from stylize.jobs.output import (
    STAGING,
    Receipt,
    accepted,
    adopt_shards,
    check_failures,
    check_max_failures,
    current_receipt,
    damaged_files,
    locked_shard,
    make_output,
    missing_receipts,
    publish_receipts,
    refuse_damaged,
    write_receipt,
)
from stylize.jobs.spec import ShardPlan, Spec, plan_shards, shard_sizes
from stylize.networks.devices import find_devices
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from stylize.sources import Source

CORES_PER_PROCESS = 4  # which one process keeps busy with decoding and encoding, as Python's threads take turns
SHARDS_PER_PROCESS = 25  # from which another process on a GPU saves the seconds that it takes to start
Notice = Callable[[str], None]
MakeAll = Callable[[Path, Iterator[ShardPlan]], object]  # makes the shards that are not finished in the staging folder


def make_shards(
    job: Job,
    out: Path,
    max_failures: int = 0,
    report: Report = silent,
    *,
    retry_failed: bool = False,
    notice: Notice = silent,
) -> Manifest:
    """Make a job's shards in the folder `out` and return their manifest; a finished and whole folder is left as it is.

    Of a finished folder the files' sizes are compared with its manifest, and their SHA-256 where all are 1 GB or less;
    shards that are damaged or missing are made again.
    Work in progress lies in a hidden folder beside `out`, named by the specification's hash: the same call goes on
    where an interrupted one stopped, reads images that failed again, and never mixes with another job.
    With `retry_failed` a finished folder that lacks images, or whose images have changed since, is made anew from its
    shards that are whole and agree with the source; only the others are made again.
    `report` receives numbers of finished images, from any thread but never from two at once; `notice` receives,
    in a sentence, what was found in a finished folder, or advice on the images' size.

    Raises `InputError` where `out` holds something else or cannot be written, another run is at work, or more than
    `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    make_all, advise = partial(make_locally, job, report), partial(size_advice, job)
    return run_job(job.spec, job.source, make_all, out, max_failures, retry_failed, notice, advise)


def run_job(
    spec: Spec,
    source: Source,
    make_all: MakeAll,
    out: Path,
    max_failures: int,
    retry_failed: bool,
    notice: Notice,
    advise: Callable[[], str | None],
) -> Manifest:
    """Do as `make_shards`, with an executor that makes the shards; `advise` is asked before a new folder is made."""
    check_max_failures(max_failures)
    document = spec.document()

    def keep(finished: Manifest) -> Manifest | None:
        if needs_work(finished, spec, out, retry_failed, notice):
            return None
        return accepted(finished, out, max_failures)

    def make(staging: Path, finished: Manifest | None) -> Manifest:
        if finished:
            adopt_shards(spec, source, finished, out.resolve(), staging)
        elif advice := advise():
            notice(advice)
        make_all(staging, plan_shards(spec, source))
        replace = finished is not None
        return publish_receipts(document, source.ignored, staging, out.resolve(), max_failures, replace=replace)

    return make_output(out, document, make, keep, other_images=retry_failed)


def needs_work(finished: Manifest, spec: Spec, out: Path, retry_failed: bool, notice: Notice = silent) -> bool:
    """Return whether a finished folder is to be made anew from its whole shards, and say what was found."""
    damaged, read = damaged_files(finished, out)
    if damaged:
        notice(f"{out}: damaged or missing, made again: {', '.join(damaged)}")
        return True
    if retry_failed and (finished.failures > 0 or finished.spec != spec.document()):
        return True
    compared = "sizes and SHA-256" if read else "sizes (`stylize verify` reads everything)"
    notice(f"{out}: finished already, {compared} as recorded")
    return False


def make_locally(job: Job, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> list[Failure]:
    """Make the shards that are not finished, on all GPUs of a kind; return the images that could not be used."""
    if job.reopen is None or job.stylizer.device.type == "cpu":
        return make_here(job, report, staging, plans)
    shards = list(plans)
    devices = share_devices(len(shards))
    if len(devices) == 1:
        return make_here(job, report, staging, shards)
    return make_on_devices(job, devices, report, staging, shards)


def make_here(job: Job, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> list[Failure]:
    """Do as `make_locally` in this process."""
    lock = threading.Lock()

    def report_alone(images: int) -> None:
        with lock:
            report(images)

    with start_workers(job.stylizer.streams) as workers:
        make = partial(make_or_reuse, job, staging, report_alone, workers)
        return [failure for receipt in workers.shards.map(make, plans) for failure in receipt.failures]


def make_or_reuse(job: Job, staging: Path, report: Report, workers: Workers, plan: ShardPlan) -> Receipt:
    """Return the receipt of a shard: made now, unless it is finished, agrees with the source, and fails as before."""
    with locked_shard(staging, plan.name):
        known = current_receipt(job.spec, job.source, plan, staging)
        if known:
            failed = {failure.path for failure in known.failures}
            images = (read_image(job, plan.split, i) for i in plan.indices if job.source.path(plan.split, i) in failed)
            if set(known.failures) == {image for image in images if isinstance(image, Failure)}:  # for the same reasons
                report(len(plan.indices))
                return known
        receipt = make_shard(job, plan, staging / "shards", report, workers)
        write_receipt(staging, receipt)
        return receipt


def share_devices(shards: int) -> list[str]:
    """Return the device of every process that should make so many shards: all GPUs here, each several times.

    One process cannot decode and encode as fast as a GPU stylizes, and shards need nothing of each other.
    """
    devices = find_devices()
    processes = min(torch.get_num_threads() // CORES_PER_PROCESS, shards // SHARDS_PER_PROCESS)
    return [device for _ in range(max(1, processes // max(1, len(devices)))) for device in devices][:shards]


def make_on_devices(
    job: Job, devices: Sequence[str], report: Report, staging: Path, shards: Sequence[ShardPlan]
) -> list[Failure]:
    """Make the shards, each process as many as the next; return the images that could not be used.

    Raises `InputError` where a process fails or dies; finished shards are kept.
    """
    context = get_context("spawn")
    processes, places = [], {}
    try:
        for number, device in enumerate(devices):
            reader, writer = context.Pipe(duplex=False)
            share = shards[number :: len(devices)]
            arguments = (job.reopen, device, job.spec, staging, share, writer)
            process = context.Process(target=_make_share, args=arguments, daemon=True)
            process.start()
            processes.append(process)
            writer.close()  # so that the reader sees the process's end
            places[reader] = device
        return _gather(places, report)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _gather(places: dict[Connection, str], report: Report) -> list[Failure]:
    failures: list[Failure] = []
    while places:
        for reader in cast("list[Connection]", wait(list(places))):
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
    reopen: Callable[[str], Job], device: str, spec: Spec, staging: Path, plans: Sequence[ShardPlan], sender: Connection
) -> None:
    """Send the numbers of finished images, and in the end the failures, or what was wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers, and ends this process
    end_with_parent()
    try:
        if device != "cpu":
            torch.cuda.set_device(device)
        job = reopen(device)
        if job.spec != spec:
            raise InputError(f"Device {device} would make other shards than the first: name devices of one kind.")
        sender.send(make_here(job, sender.send, staging, plans))
    except InputError as error:
        sender.send(str(error))


RECORD_NAME = "job.json"  # what `publish_parts` needs to know, so that it needs neither images nor networks


@dataclass(frozen=True)
class Part:
    """The `number`-th of `count` parts of a job's shards, counted from 1: every count-th shard."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"--only is {self}: give a part from 1/{self.count} on.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def images(self, spec: Spec) -> int:
        """Return how many images the part is made of."""
        sizes = shard_sizes(spec.counts, spec.samples_per_shard)
        return sum(islice(sizes.values(), self.number - 1, None, self.count))


def parse_part(text: str) -> Part:
    """Return the part that `3/16` names."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise InputError(f"--only is {text!r}: give part and number of parts, as 3/16.")
    return Part(int(number), int(count))


def make_part(
    job: Job, out: Path, part: Part, max_failures: int = 0, report: Report = silent, notice: Notice = silent
) -> int:
    """Make a part of a job's shards for the folder `out` and return how many of the part are finished: all of them.

    Any number of processes may do so at once, on machines that share the folder beside `out`; each shard is made by
    one of them, and finished ones are not made again. `publish_parts` must follow when all parts are finished.
    `report` and `notice` are as in `make_shards`.

    Raises `InputError` where `out` holds something else or damaged shards, or cannot be written; the whole job is being
    made or published; or more than `max_failures` images of this part could not be used (its shards are kept).
    """
    check_max_failures(max_failures)
    plans = list(islice(plan_shards(job.spec, job.source), part.number - 1, None, part.count))

    def keep(finished: Manifest) -> int:
        refuse_damaged(finished, out, "run the same command without --only")
        return len(plans)

    def make(staging: Path, _finished: Manifest | None) -> int:
        record = {"out": out.resolve().name, "spec": job.spec.document(), "left_out": dict(job.source.ignored)}
        payload, path = json.dumps(record).encode(), staging / RECORD_NAME
        if not path.is_file() or path.read_bytes() != payload:
            write_atomically(path, payload)
        if advice := size_advice(job):
            notice(advice)
        check_failures(make_locally(job, report, staging, plans), max_failures, f"part {part}")
        return len(plans)

    return make_output(out, job.spec.document(), make, keep, shared=True)


def publish_parts(out: Path, max_failures: int = 0) -> Manifest:
    """Publish the folder `out` from the finished parts of its job; where that has been done, return its manifest.

    Raises `InputError` where there are no parts, some shards are missing, parts are being made, or more than
    `max_failures` images could not be used.
    """
    check_max_failures(max_failures)
    out = out.resolve()
    records: dict[Path, Mapping[str, Any]] = {}  # of jobs whose parts are for `out`, by their staging folders
    for path in sorted((out.parent / STAGING).glob(f"*/{RECORD_NAME}")):
        with suppress(FileNotFoundError):  # published just now
            record = json.loads(path.read_bytes())
            records |= {path.parent: record} if record["out"] == out.name else {}
    if not records and (out / MANIFEST_NAME).is_file():
        return accepted(read_manifest(out), out, max_failures)
    _check_one(records, out)
    (record,) = records.values()
    spec = record["spec"]

    def make(staging: Path, _finished: Manifest | None) -> Manifest:
        if missing := missing_receipts(spec, staging):
            total = len(shard_sizes(spec["counts"], spec["samples_per_shard"]))
            raise InputError(
                f"{counted(len(missing), 'shard')} of {total} are missing (first: {missing[0]}): "
                "run the parts again that did not end well."
            )
        return publish_receipts(spec, record["left_out"], staging, out, max_failures)

    return make_output(out, spec, make, lambda finished: accepted(finished, out, max_failures))


def _check_one(records: Mapping[Path, Mapping[str, Any]], out: Path) -> None:
    if not records:
        raise InputError(f"{out} has no parts to publish: run `stylize shards --only 1/N` with this --out, and so on.")
    if len(records) > 1:
        specs = [record["spec"] for record in records.values()]
        values = "; ".join(
            f"{name}: {', '.join(str(spec.get(name)) for spec in specs)}"
            for name in sorted(set().union(*specs))
            if any(spec.get(name) != specs[0].get(name) for spec in specs)
        )
        folders = ", ".join(str(staging) for staging in records)
        raise InputError(
            f"{out} has parts of {len(records)} jobs, which differ ({values}): their shards do not go together; "
            f"remove the wrong one of {folders}."
        )
