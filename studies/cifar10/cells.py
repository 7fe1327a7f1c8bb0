"""Finished cells, `results/METHOD-SEED.tar.xz`, as the answer reads them."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from attack import Result, read_result
from attack.evaluation.shape_bias import Decision


@dataclass(frozen=True)
class Cell:
    """One model: its attacks, decisions on cue-conflict images, errors on corrupted images, and record of training."""

    method: str
    seed: int
    result: Result
    decisions: Sequence[Decision]
    corruptions: dict[str, Any]
    training: dict[str, Any]

    @property
    def dtype(self) -> str:
        """The number type that it was trained in."""
        return str(self.training["settings"]["dtype"])


def read_cells(results: Path) -> list[Cell]:
    """Read all cells; raise `BadParameter` where there are none, or where they cannot be compared."""
    cells = [_read_cell(path) for path in sorted(results.glob("*.tar.xz"))]
    if not cells:
        raise typer.BadParameter(f"{results} holds no METHOD-SEED.tar.xz: run `dvc repro` first.")
    for seed in sorted({cell.seed for cell in cells}):
        _check_comparable(seed, [cell for cell in cells if cell.seed == seed])
    return cells


def _read_cell(path: Path) -> Cell:
    key = path.name.removesuffix(".tar.xz")
    method, _, seed = key.rpartition("-")
    with TemporaryDirectory() as folder, tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
        result = read_result(Path(folder, key, "attack.json"))
        shape, corruptions, training = (
            json.loads(Path(folder, key, f"{name}.json").read_text(encoding="utf-8"))
            for name in ("shape", "corruptions", "record")
        )
    decisions = [Decision(**record) for record in shape["records"]]
    return Cell(method, int(seed), result, decisions, corruptions, training)


def _check_comparable(seed: int, cells: Sequence[Cell]) -> None:
    """Raise `BadParameter` where cells of a seed differ in number type of training, or in attacked images."""
    if len({cell.dtype for cell in cells}) > 1:
        found = ", ".join(f"{cell.method} in {cell.dtype}" for cell in cells)
        raise typer.BadParameter(
            f"Cells of seed {seed} were trained in several number types ({found}): make those of one type again."
        )
    if len({cell.result.keys for cell in cells}) > 1:
        raise typer.BadParameter(
            f"Cells of seed {seed} were not all attacked on the same images: remove those of other images."
        )
