"""The planted zoo: models of known truth, and the verdicts that `attack run --suite quick` gives them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from attack import AttackConfig, attack_model
from attack.attacks import epsilon_name
from attack.checks import Check
from tests.attack.planted.gradients import GRADIENTS
from tests.attack.planted.honest import HONEST
from tests.attack.planted.inputs import INPUTS
from tests.attack.planted.networks import robust, undefended
from tests.attack.planted.outputs import OUTPUTS
from tests.attack.planted.randomness import RANDOM, ROBUST_RANDOM
from tests.attack.planted.state import STATEFUL
from tests.attack.planted.wrapping import Builder

BROKEN: Mapping[str, Builder] = {
    "no defence": lambda network: network,
    **GRADIENTS,
    **RANDOM,
    **STATEFUL,
    **INPUTS,
    **OUTPUTS,
}
QUICK = AttackConfig(suite="quick", images=48, steps=20, step_size=5e-4, batch_size=48)
EOT = replace(QUICK, eot=8)
NO_REASON = {"attacks come to rest"}  # a failed check that honest models fail too: it explains no verdict


class Truth(NamedTuple):
    """Models of which it is known whether they are broken, and how they are judged."""

    models: Mapping[str, Builder]
    broken: bool
    config: AttackConfig = QUICK


TRUTHS = {
    "undefended, behind a defence": Truth(BROKEN, True),
    "adversarially trained, wrapped honestly": Truth(HONEST, False),
    "undefended and random, `--eot 8`": Truth(RANDOM, True, EOT),
    "adversarially trained and random, `--eot 8`": Truth(ROBUST_RANDOM, False, EOT),
}


@dataclass(frozen=True)
class Cell:
    """The verdict on a model within one radius, and the names of the checks that failed there."""

    word: str
    failed: frozenset[str]

    def missed(self) -> bool:
        """Tell whether a broken model passes: it holds, or is inconclusive and no failed check says why."""
        return self.word == "holds" or (self.word == "inconclusive" and not self.failed - NO_REASON)

    def alarmed(self) -> bool:
        """Tell whether an honest model is suspected, or called broken."""
        return self.word in ("masking suspected", "not robust")


def build(name: str, *, broken: bool) -> nn.Module:
    """Return a planted model in eval mode, on networks of its own."""
    torch.manual_seed(0)
    builder = BROKEN[name] if broken else {**HONEST, **ROBUST_RANDOM}[name]
    return builder(copy.deepcopy(undefended() if broken else robust())).eval()


def judge(model: str | nn.Module, shards: Path, out: Path, config: AttackConfig = QUICK) -> dict[str, Cell]:
    """Evaluate a model as `attack run` does, and return what is said of it by radius, as `8/255`."""
    result = attack_model(model, shards, out, config)
    checks = [Check(**check) for check in result["checks"]]
    cells = {}
    for verdict in result["verdicts"]:
        norm, epsilon = verdict["norm"], verdict["epsilon"]
        failed = frozenset(check.name for check in checks if not check.passed and check.concerns(norm, epsilon))
        cells[epsilon_name(epsilon)] = Cell(verdict["word"], failed)
    return cells
