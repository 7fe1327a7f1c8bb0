"""The engine `ray`: workers anywhere in a cluster make a job's shards in a staging folder that all nodes share."""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from stylize.errors import InputError
from stylize.runs.job import Job, Report
from stylize.runs.ray_cluster import check_cluster, places, ray_cluster
from stylize.runs.run import Notice, run_job
from stylize.runs.shard_maker import ShardMaker
from stylize.runs.spec import ShardPlan, Spec
from stylize.shards.manifest import Manifest
from stylize.sources.source import Source

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
    report: Report = lambda images: None,
    *,
    retry_failed: bool = False,
    notice: Notice = lambda sentence: None,
) -> Manifest:
    """Do as `make_shards` with the workers of a cluster; `source` is the job's, as this machine sees it."""
    return run_job(pool.spec, source, partial(pool.make, report), out, max_failures, retry_failed, notice)


@contextmanager
def ray_pool(opener: Callable[[], Job]) -> Iterator["RayPool"]:
    """Join or start a cluster and open the job on it, one worker a GPU, or a node where there are no GPUs.

    Raises `InputError` where Ray or the cluster is not there, or the job cannot be opened.
    """
    with ray_cluster() as ray:
        yield RayPool(ray, opener)


@dataclass(eq=False)
class _Worker:
    actor: Any
    needs: dict[str, float]
    busy: int = 0


class RayPool:
    """Workers that have opened a job, and `spec`, on which the first of them and all others agree."""

    def __init__(self, ray: ModuleType, opener: Callable[[], Job]) -> None:
        self._ray = ray
        self._make_actor = partial(ray.remote(ShardMaker).options, max_concurrency=SHARDS_AT_ONCE)
        self._arguments = opener, Path.cwd()
        self._workers: list[_Worker] = []
        self._waiting: dict[
            Any, tuple[_Worker, ShardPlan | None]
        ] = {}  # by reference; without a shard it opens the job
        self._again: deque[ShardPlan] = deque()
        self._errors: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
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
            self._count_error(plan, error.cause)
        except errors.RayError as error:
            self._replace(worker)
            self._count_loss(plan, error)
        else:
            if plan is None:
                self._welcome(worker, value)
                return None
            worker.busy -= 1
            return plan
        if plan:
            self._again.append(plan)
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
        first, own = (self._spec or spec).document(), spec.document()
        names = [name for name in {**first, **own} if first.get(name) != own.get(name)]
        if differing := [f"{name}: {first.get(name)}, {own.get(name)}" for name in names]:
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

    def _count_error(self, plan: ShardPlan | None, error: Exception) -> None:
        """Note that a shard or, without one, opening the job failed; raise `InputError` at the limit."""
        if plan is None and isinstance(error, InputError):  # a mistake in the options, or in a node's folders
            raise error
        name = plan.name if plan else "Opening the job"
        self._errors[name] += 1
        if self._errors[name] >= MAX_ERRORS:
            reason = str(error).rstrip(".") if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(
                f"{name} failed {MAX_ERRORS} times on the cluster (last: {reason}): "
                "mend it, and run the same command to go on."
            )

    def _count_loss(self, plan: ShardPlan | None, error: Exception) -> None:
        name = plan.name if plan else "Opening the job"
        self._losses[name] += 1
        if self._losses[name] >= MAX_LOSSES:
            reason = str(error).rpartition(" because ")[2].partition(".")[0].strip()
            raise InputError(
                f"{name} lost its worker {MAX_LOSSES} times (last: {reason}): look at the nodes' memory and "
                "`ray status`, and run the same command to go on."
            )
