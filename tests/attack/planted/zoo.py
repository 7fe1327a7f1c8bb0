"""The planted zoo: models of known truth, and the verdicts that `attack run --suite quick` gives them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attack import AttackConfig, attack_model
from tests.attack.planted.gradients import GRADIENTS
from tests.attack.planted.honest import HONEST
from tests.attack.planted.inputs import INPUTS
from tests.attack.planted.networks import robust, undefended
from tests.attack.planted.outputs import OUTPUTS
from tests.attack.planted.randomness import RANDOM
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
NO_REASON = {"attacks come to rest"}  # a failed check that honest models fail too: it explains no verdict


@dataclass(frozen=True)
class Judged:
    """The verdicts on a model by radius, as `8/255`, and the names of its failed checks."""

    words: Mapping[str, str]
    failed: tuple[str, ...]

    def missed(self) -> bool:
        """Tell whether a broken model passes: it holds somewhere, or is inconclusive and no failed check says why."""
        explained = bool(set(self.failed) - NO_REASON)
        return any(word == "holds" or (word == "inconclusive" and not explained) for word in self.words.values())

    def alarmed(self) -> bool:
        """Tell whether an honest model is suspected, or called broken."""
        return any(word in ("masking suspected", "not robust") for word in self.words.values())


def build(name: str, *, broken: bool) -> nn.Module:
    """Return a planted model in eval mode, on networks of its own."""
    torch.manual_seed(0)
    if broken:
        return BROKEN[name](copy.deepcopy(undefended())).eval()
    return HONEST[name](copy.deepcopy(robust())).eval()


def judge(model: nn.Module, shards: Path, out: Path, config: AttackConfig = QUICK) -> Judged:
    """Evaluate a model as `attack run` does."""
    result = attack_model(model, shards, out, config)
    return Judged(_words(result), tuple(check["name"] for check in result["checks"] if not check["passed"]))


def _words(result: Mapping[str, Any]) -> Mapping[str, str]:
    return {"8/255": result["verdict"]["word"]}
