from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylize.fitting.data import open_pool
from stylize.fitting.decoder import CALLS_BEFORE, DecoderFit, Recorded
from stylize.fitting.settings import FitSettings, Phase
from stylize.networks.adain import Encoder
from stylize.networks.stylizer import Pixels
from stylize.networks.weights import LoadedEncoder

STEPS = CALLS_BEFORE + 3


def test_on_a_cpu_the_function_is_called_every_time() -> None:
    seen: list[tuple[Tensor, ...]] = []

    def function(*batch: Tensor) -> dict[str, Tensor]:
        seen.append(batch)
        return {"sum": torch.stack(batch).sum()}

    recorded = Recorded(function, torch.device("cpu"))
    batches = [torch.full((2,), float(step)) for step in range(STEPS)]
    assert [float(recorded(batch, batch)["sum"]) for batch in batches] == [4.0 * step for step in range(STEPS)]
    assert all(first is batch and second is batch for (first, second), batch in zip(seen, batches, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_replayed_steps_are_those_of_calls(
    tmp_path: Path,
    encoder: Encoder,
    noise: Callable[..., Pixels],
    encode: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "picture.png").write_bytes(encode(noise(0, 24, 24)))
    pool = open_pool(tmp_path, [str(tmp_path)], [], 0.0)
    losses = []
    for calls in (STEPS, CALLS_BEFORE):
        monkeypatch.setattr("stylize.fitting.decoder.CALLS_BEFORE", calls)
        fit = DecoderFit(FitSettings((Phase("style", 32, STEPS),), batch_size=4), pool, LoadedEncoder(encoder, ""))
        batches = [torch.from_numpy(noise(step, 4 * 3 * 32, 32)[..., 0].reshape(4, 3, 32, 32)) for step in range(STEPS)]
        losses.append([fit.train_step("style", batch, batch.flip(0)) for batch in batches])
        assert (fit.recorded.popitem()[1].graph is None) == (calls == STEPS)
    for called, replayed in zip(*losses, strict=True):
        assert replayed == pytest.approx(called, rel=0.02)
