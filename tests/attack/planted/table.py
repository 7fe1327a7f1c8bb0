"""Judge the whole zoo and write the table of truth against verdict: `python -m tests.attack.planted.table`."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from attack.attacks import epsilon_name
from stylize.console import InputError
from tests.attack.planted import networks
from tests.attack.planted.networks import write_shards
from tests.attack.planted.zoo import QUICK, TRUTHS, Cell, build, judge

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
BEGIN, END = "<!-- planted models: begin -->\n", "<!-- planted models: end -->\n"
WORDS = ("not robust", "masking suspected", "near chance", "inconclusive", "holds", "refused", "crash")
RADII = [epsilon_name(epsilon) for epsilon in QUICK.epsilons]


def judge_all(folder: Path) -> Iterator[tuple[str, str, dict[str, Cell]]]:
    """Yield the truth, the name and the verdicts of every planted model; a crash is a verdict of its own."""
    shards = write_shards(folder / "shards")
    for place, (truth, (models, broken, config)) in enumerate(TRUTHS.items()):
        for number, name in enumerate(models):
            out = folder / f"{place}-{number}.json"  # a crash leaves the parts of an evaluation behind
            try:
                yield truth, name, judge(build(name, broken=broken), shards, out, config)
            except Exception as error:
                word = "refused" if isinstance(error, InputError) else "crash"
                yield truth, name, dict.fromkeys(RADII, Cell(word, frozenset({f"{type(error).__name__}: {error}"})))


def confusion(words: Mapping[tuple[str, str], Counter[str]]) -> str:
    """Return the table of truth and radius against the words, in Markdown."""
    lines = [f"| truth | L∞ radius | models | {' | '.join(WORDS)} |", "| --- " * (3 + len(WORDS)) + "|"]
    for (truth, radius), counts in words.items():
        numbers = " | ".join(str(counts[word]) for word in WORDS)
        lines.append(f"| {truth} | {radius} | {counts.total()} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page, and print what was not judged rightly."""
    torch.set_num_threads(1)
    words: dict[tuple[str, str], Counter[str]] = {(truth, radius): Counter() for truth in TRUTHS for radius in RADII}
    with tempfile.TemporaryDirectory() as folder:
        networks.FOLDER = Path(folder)
        for truth, name, cells in judge_all(Path(folder)):
            for radius, cell in cells.items():
                words[truth, radius][cell.word] += 1
                wrong = cell.missed() if TRUTHS[truth].broken else cell.alarmed()
                if wrong or cell.word == "crash":
                    reasons = "; ".join(sorted(cell.failed)) or "nothing"
                    sys.stdout.write(f"{name} ({truth}), {radius}: {cell.word}; failed: {reasons}\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + confusion(words) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
