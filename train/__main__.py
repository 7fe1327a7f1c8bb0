"""The console script `train`, also `python -m train`."""

from stylize.interruption import answered_in_one_line
from train.memory import keep_freed_memory


def main() -> None:
    """Import the commands, which takes seconds, and run them."""
    keep_freed_memory()
    with answered_in_one_line():
        from train.cli import main as run
    run()


if __name__ == "__main__":
    main()
