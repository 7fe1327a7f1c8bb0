"""A progress bar with images/s and time left on a terminal; one line per epoch everywhere."""

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from stylize.command_line import LiteralConsole


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


def training_console(visible: bool) -> LiteralConsole:
    """Return the run's console, on standard error; a silent one for all processes but the first."""
    return LiteralConsole(stderr=True, quiet=not visible, highlight=False)


def training_progress(visible: bool) -> Progress:
    """Return the run's progress display; an invisible one for all processes but the first."""
    console = training_console(visible)
    columns = (TextColumn("{task.description}"), BarColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


def epoch_line(row: dict[str, float], epochs: int) -> str:
    """Return what is printed of an epoch's metrics."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['training_loss']:.4f}, "
        f"validation accuracy {row['validation_accuracy']:.4f}, {row['seconds']:.1f} s"
    )
