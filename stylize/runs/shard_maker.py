"""One worker of the engine `ray`: a process somewhere that opens the job once and makes the shards it is given."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from stylize.errors import InputError
from stylize.runs.job import Job
from stylize.runs.local import make_or_reuse
from stylize.runs.spec import ShardPlan, Spec
from stylize.runs.workers import start_workers


class ShardMaker:
    """Makes shards of one job in folders that all nodes share; knows nothing of Ray.

    Two calls of `make` at once are best: the network goes on while the end of the other shard is being written.
    """

    def __init__(self, opener: Callable[[], Job], folder: Path) -> None:
        """Note how the job is opened, and the folder that its relative paths start from."""
        self.opener, self.folder = opener, folder
        self.stack = ExitStack()

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
        self.workers = self.stack.enter_context(start_workers(self.job.engine.streams))
        return self.job.spec

    def make(self, plan: ShardPlan, staging: Path, proof: str) -> None:
        """Make a shard and its receipt in the staging folder, unless it is finished.

        Raises `InputError` where the staging folder here is not the one that has the file `proof`.
        """
        if not (staging / proof).is_file():
            raise InputError(
                f"{staging} is not shared with node {os.uname().nodename}: give an --out in a folder of all nodes."
            )
        make_or_reuse(self.job, staging, lambda images: None, self.workers, plan)
