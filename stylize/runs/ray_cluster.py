"""A Ray cluster for the time of a run: joined or started here, and where in it workers go."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from stylize.errors import InputError

GONE_SECONDS = 20  # after which a cluster is given up; Ray ends the whole program after 60
OBJECT_STORE_BYTES = 100_000_000  # of a cluster started here: no picture goes through it


@contextmanager
def ray_cluster() -> Iterator[ModuleType]:
    """Join the cluster that `RAY_ADDRESS` names, or start one on this machine alone and stop it in the end.

    Yields the module `ray`. Raises `InputError` where Ray is not installed or the cluster cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns where this is not settled
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'stylized-pairing[ray]', or give --engine local.") from None
    with _own_signals():
        _connect(ray, os.environ.get("RAY_ADDRESS", "local"))
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    started = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(
            f"No Ray cluster at {address} ({reason}): check RAY_ADDRESS, or unset it for a cluster here."
        ) from None


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


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's answers to signals, which Ray replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def places(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return what every worker needs, as Ray counts it, from the cluster's nodes as `ray.nodes()` lists them.

    One worker a GPU, with its share of the node's CPUs; without GPUs one a node, with all CPUs, as the engine `local`
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
        raise InputError("The Ray cluster has neither GPUs nor CPUs to work on: add nodes, or give --engine local.")
    return found
