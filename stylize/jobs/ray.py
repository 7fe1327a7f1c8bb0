"""Run a job on a Ray cluster: one task a shard, networks loaded once an actor."""

import os
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from stylize.console import InputError, Report, silent
from stylize.interruption import answered_by
from stylize.jobs.estimate import small_images_note
from stylize.jobs.job import Job
from stylize.jobs.make_shard import start_workers
from stylize.jobs.run import Notice, make_or_reuse, run_job
from stylize.jobs.spec import ShardPlan, Spec
from stylize.shards.diff import diff_specs
from stylize.shards.manifest import Manifest
from stylize.sources import Source

GONE_SECONDS = 20  # after which a cluster is given up; Ray ends the whole program after 60
OBJECT_STORE_BYTES = 100_000_000  # of a cluster started here: no picture goes through it
SHARDS_AT_ONCE = 2  # on a worker, so that the network goes on while the end of a shard is being written
MAX_ERRORS = 3  # of a shard, or of workers that open the job
MAX_LOSSES = 5  # of workers that had a shard: machines come and go, and that is not the shard's fault
PATIENCE_SECONDS = 600.0  # without any worker, say until a node joins
POLL_SECONDS = 5.0


def make_shards_on_ray(
    pool: "RayPool",
    source: Source,
    out: Path,
    max_failures: int = 0,
    report: Report = silent,
    *,
    retry_failed: bool = False,
    notice: Notice = silent,
) -> Manifest:
    """Do as `make_shards` with the workers of a cluster; `source` is the job's, as this machine sees it."""
    advise = partial(small_images_note, pool.spec, source)
    return run_job(pool.spec, source, partial(pool.make, report), out, max_failures, retry_failed, notice, advise)


@dataclass(eq=False)
class _Worker:
    actor: Any
    needs: dict[str, float]
    busy: int = 1  # calls that it has been given: first, to open the job


class RayPool:
    """Workers that have opened a job, and `spec`, on which the first of them and all others agree."""

    def __init__(self, ray: ModuleType, opener: Callable[[], Job]) -> None:
        self._ray = ray
        self._make_actor = partial(ray.remote(ShardMaker).options, max_concurrency=SHARDS_AT_ONCE)
        self._arguments = opener, Path.cwd()
        self._workers: list[_Worker] = []
        # By reference; without a shard the worker opens the job.
        self._waiting: dict[Any, tuple[_Worker, ShardPlan | None]] = {}
        self._again: deque[ShardPlan] = deque()
        self._troubles: Counter[tuple[str, str]] = Counter()
        self._spec: Spec | None = None
        for needs in places(ray.nodes()):
            self._start(needs)
        while self._spec is None:
            self._next()
        self.spec: Spec = self._spec

    def make(self, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> None:
        """Make the shards that are not finished.

        Raises `InputError` where a shard failed or lost its worker too often, or no worker can be had.
        """
        proof = staging / f"shared-{secrets.token_hex(8)}"
        proof.touch()
        plans = iter(plans)
        try:
            while self._hand_out(plans, staging, proof.name):
                if finished := self._next():
                    report(len(finished.indices))
        finally:
            proof.unlink(missing_ok=True)

    def _start(self, needs: dict[str, float]) -> None:
        worker = _Worker(self._make_actor(**needs).remote(*self._arguments), needs)
        self._waiting[worker.actor.open.remote()] = worker, None

    def _hand_out(self, plans: Iterator[ShardPlan], staging: Path, proof: str) -> bool:
        """Give free workers shards, those first that come again; return whether any shard is in the making."""
        while free := [worker for worker in self._workers if worker.busy < SHARDS_AT_ONCE]:
            plan = self._again.popleft() if self._again else next(plans, None)
            if plan is None:
                break
            worker = min(free, key=lambda worker: worker.busy)
            worker.busy += 1
            self._waiting[worker.actor.make.remote(plan, staging, proof)] = worker, plan
        return bool(self._again) or any(plan for _, plan in self._waiting.values())

    def _next(self) -> ShardPlan | None:
        """Wait for the next event and return the shard that it finished, if it did."""
        reference = self._wait()
        worker, plan = self._waiting.pop(reference)
        errors = self._ray.exceptions
        try:
            value = self._ray.get(reference)
        except errors.RayTaskError as error:
            self._replace(worker)
            cause = error.cause
            if plan is None and isinstance(cause, InputError):  # a mistake in the options, or in a node's folders
                raise cause from None
            reason = str(cause).rstrip(".") if isinstance(cause, InputError) else f"{type(cause).__name__}: {cause}"
            self._count(plan, "failed", MAX_ERRORS, reason, "mend it, and run the same command to go on")
        except errors.RayError as error:
            self._replace(worker)
            reason = str(error).rpartition(" because ")[2].partition(".")[0].strip()
            advice = "look at the nodes' memory and `ray status`, and run the same command to go on"
            self._count(plan, "lost its worker", MAX_LOSSES, reason, advice)
        else:
            if plan is None:
                self._welcome(worker, value)
            worker.busy -= 1
            return plan
        self._again.extend([plan] if plan else [])
        return None

    def _wait(self) -> Any:
        """Return a reference whose value or error is there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            ready = self._ray.wait(list(self._waiting), timeout=POLL_SECONDS)[0]
            check_cluster(self._ray)
            if ready:
                return ready[0]
            if not self._workers and time.monotonic() > deadline:
                raise InputError(
                    f"The Ray cluster gave no worker in {PATIENCE_SECONDS / 60:.0f} minutes: look at `ray status`, "
                    "add nodes, and run the same command to go on."
                )

    def _welcome(self, worker: _Worker, spec: Spec) -> None:
        """Let a worker that has opened the job take part, if its shards would have the same bytes."""
        differences = diff_specs((self._spec or spec).document(), spec.document())
        if differing := [f"{name}: {first}, {own}" for name, first, own in differences]:
            raise InputError(
                f"The cluster's nodes would make different shards ({'; '.join(differing)}): "
                "use nodes of one kind, with one installation and one copy of the images."
            )
        self._spec = spec
        self._workers.append(worker)

    def _replace(self, worker: _Worker) -> None:
        """Start another worker in place of one that failed: what broke in its process, say on its GPU, goes with it."""
        self._ray.kill(worker.actor)
        lost = [reference for reference, (other, _) in self._waiting.items() if other is worker]
        self._again.extend(plan for reference in lost if (plan := self._waiting.pop(reference)[1]))
        self._workers = [other for other in self._workers if other is not worker]
        self._start(worker.needs)

    def _count(self, plan: ShardPlan | None, trouble: str, limit: int, reason: str, advice: str) -> None:
        """Note that a shard or, without one, opening the job was in trouble; raise `InputError` at the limit."""
        name = plan.name if plan else "Opening the job"
        self._troubles[name, trouble] += 1
        if self._troubles[name, trouble] >= limit:
            raise InputError(f"{name} {trouble} {limit} times on the cluster (last: {reason}): {advice}.")


class ShardMaker:
    """Makes shards of one job in folders that all nodes share; knows nothing of Ray.

    `folder` is where the relative paths of the job that `opener` opens start.
    """

    def __init__(self, opener: Callable[[], Job], folder: Path) -> None:
        self.opener, self.folder, self.stack = opener, folder, ExitStack()

    def open(self) -> Spec:
        """Load source, styles and networks and return what the shards' bytes will depend on, here."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be entered on node {os.uname().nodename} ({error.strerror}): "
                "start from a folder that all nodes share."
            ) from None
        self.job = self.opener()
        self.workers = self.stack.enter_context(start_workers(self.job.stylizer.streams))
        return self.job.spec

    def make(self, plan: ShardPlan, staging: Path, proof: str) -> None:
        """Make a shard and its receipt in the staging folder, unless it is finished.

        Raises `InputError` where the staging folder here is not the one that has the file `proof`.
        """
        if not (staging / proof).is_file():
            raise InputError(
                f"{staging} is not shared with node {os.uname().nodename}: give an --out in a folder of all nodes."
            )
        make_or_reuse(self.job, staging, silent, self.workers, plan)


@contextmanager
def ray_pool(opener: Callable[[], Job]) -> Iterator[RayPool]:
    """Open the job on the cluster that `RAY_ADDRESS` names, or on one that runs on this machine until the end.

    It has one worker a GPU, or a node where there are no GPUs.
    Raises `InputError` where Ray or the cluster is not there, or the job cannot be opened.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns where this is not settled
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'stylized-pairing[ray]', or --executor local.") from None
    address = os.environ.get("RAY_ADDRESS", "local")
    started = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    try:
        with answered_by(None):  # Ray puts answers of its own in their place
            ray.init(address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"No Ray cluster at {address} ({reason}): check RAY_ADDRESS, or unset it.") from None
    try:
        yield RayPool(ray, opener)
    finally:
        ray.shutdown()


def check_cluster(ray: ModuleType) -> None:
    """Raise `InputError` where the cluster's head does not answer for a while."""
    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=GONE_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"The Ray cluster at {address} is gone ({error.strerror or error}): finished shards are kept, "
                    "start it and run the same command to go on."
                ) from None
        time.sleep(1)


def places(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return what every worker needs, as Ray counts it, from the cluster's nodes as `ray.nodes()` lists them.

    One worker a GPU, with its share of the node's CPUs; without GPUs one a node, with all CPUs, as the executor `local`
    has them. Raises `InputError` where no node has any.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [
        {"num_gpus": 1, "num_cpus": own.get("CPU", 0) // own["GPU"]}
        for own in resources
        for _ in range(int(own.get("GPU", 0)))
    ]
    found = gpus or [{"num_gpus": 0, "num_cpus": own["CPU"]} for own in resources if own.get("CPU")]
    if not found:
        raise InputError("The Ray cluster has neither GPUs nor CPUs to work on: add nodes, or give --executor local.")
    return found
