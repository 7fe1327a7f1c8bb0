"""Judge the whole zoo and write the table of truth against verdict: `python -m tests.attack.planted.table`."""

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from tests.attack.planted.honest import HONEST
from tests.attack.planted.networks import write_shards
from tests.attack.planted.zoo import BROKEN, QUICK, Judged, build, judge

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
BEGIN, END = "<!-- planted models: begin -->\n", "<!-- planted models: end -->\n"
WORDS = ("not robust", "masking suspected", "near chance", "inconclusive", "holds", "crash")
TRUTHS = {"undefended, behind a defence": BROKEN, "adversarially trained, wrapped honestly": HONEST}


def judge_all(folder: Path) -> Iterator[tuple[str, str, Judged]]:
    """Yield the truth, the name and the verdicts of every planted model; a crash is a verdict of its own."""
    shards = write_shards(folder / "shards")
    for truth, models in TRUTHS.items():
        for number, name in enumerate(models):
            try:
                judged = judge(build(name, broken=models is BROKEN), shards, folder / f"{number}-{len(models)}.json")
            except Exception as error:
                judged = Judged({"": "crash"}, (f"{type(error).__name__}: {error}",))
            yield truth, name, judged


def confusion(judged: Mapping[tuple[str, str], Judged]) -> str:
    """Return the table of truth and radius against the words, in Markdown."""
    radii = [f"{255 * epsilon:.0f}/255" for epsilon in QUICK.epsilons]
    lines = [f"| truth | L∞ radius | models | {' | '.join(WORDS)} |", "| --- " * (3 + len(WORDS)) + "|"]
    for truth, models in TRUTHS.items():
        for radius in radii:
            words = Counter(judged[truth, name].words.get(radius, "crash") for name in models)
            lines.append(f"| {truth} | {radius} | {len(models)} | {' | '.join(str(words[word]) for word in WORDS)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page, and print each model that was not judged rightly."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    judged = {}
    with tempfile.TemporaryDirectory() as folder:
        for truth, name, each in judge_all(Path(folder)):
            judged[truth, name] = each
            wrong = each.missed() if name in BROKEN and TRUTHS[truth] is BROKEN else each.alarmed()
            if wrong or "crash" in each.words.values():
                sys.stdout.write(f"{truth}: {name}: {dict(each.words)}, failed {', '.join(each.failed) or 'nothing'}\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + confusion(judged) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
