"""Following a run while it trains: by DVCLive, which `dvc exp show` and editors read, or by TensorBoard."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stylize.errors import InputError

LOGS = ("none", "dvclive", "tensorboard")
LIVE_NAME = "live"
Report = Callable[[Mapping[str, float]], None]


@contextmanager
def followed(log: str, out: Path, rows: Iterable[Mapping[str, float]]) -> Iterator[Report]:
    """Lend a function that shows the metrics of an epoch to whoever follows the run in `out/live`.

    The folder is begun anew with `rows`, those of the epochs before, so that a continued run shows each once.  Raises
    `InputError` where the package that `log` names is not installed.
    """
    folder = out / LIVE_NAME
    if log == "none":
        yield lambda row: None
        return
    shutil.rmtree(folder, ignore_errors=True)
    with (_dvclive if log == "dvclive" else _tensorboard)(folder) as report:
        for row in rows:
            report(row)
        yield report


@contextmanager
def _dvclive(folder: Path) -> Iterator[Report]:
    try:
        from dvclive import Live
    except ImportError:
        raise InputError("--log dvclive needs DVCLive: pip install 'stylized-pairing[live]'.") from None
    live = Live(str(folder), save_dvc_exp=False, dvcyaml=str(folder / "dvc.yaml"))

    def report(row: Mapping[str, float]) -> None:
        live.step = int(row["epoch"])
        for name, value in _numbers(row):
            live.log_metric(name, value)
        live.next_step()

    yield report
    live.end()


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Report]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of the packages that it is made of
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--log tensorboard needs TensorBoard: pip install 'stylized-pairing[live]'.") from None
    writer = SummaryWriter(str(folder))

    def report(row: Mapping[str, float]) -> None:
        for name, value in _numbers(row):
            writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    yield report
    writer.close()


def _numbers(row: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in row.items() if name != "epoch" and value is not None)
