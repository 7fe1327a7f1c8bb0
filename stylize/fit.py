"""`stylize fit-decoder`: train a decoder for the encoder; resumable, and a function of its settings and pictures."""

import copy
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stylize.devices import best_device, best_dtype
from stylize.errors import InputError, plain_errors
from stylize.fit_data import CropBatches, FitSettings, Pool
from stylize.fit_losses import initialise_from_encoder, reconstruction_loss, style_transfer_losses
from stylize.networks import Decoder, Encoder
from stylize.weights import LoadedEncoder, save_decoder

CHECKPOINT_STEPS = 50
Report = Callable[[str, int, int, dict[str, float]], None]


def _identity(settings: FitSettings, pool: Pool, encoder: LoadedEncoder) -> str:
    """Return what a training must agree in with the one that it goes on with: settings, pictures and encoder."""
    pictures = [[file.name for file in files] for files in (pool.content, pool.styles)]
    return json.dumps([asdict(settings), pictures, pool.patterns, encoder.sha256])


class DecoderFit:
    """A decoder in training: weights, their running average, two optimisers, and the position in the recipe."""

    def __init__(self, settings: FitSettings, pool: Pool, encoder: LoadedEncoder) -> None:
        self.settings = settings
        self.pool = pool
        self.device = best_device()
        self.dtype = best_dtype(self.device)
        self.identity = _identity(settings, pool, encoder)
        self.encoder: Encoder = copy.deepcopy(encoder.network)
        self.encoder.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder = Decoder().to(self.device)
        self.phase, self.step = "reconstruction", 0
        self._initialise()
        self.averaged = copy.deepcopy(self.decoder)
        self._start_phase()

    def _initialise(self) -> None:
        content, _ = CropBatches(self.pool, self.settings.crops("style"))[0]
        initialise_from_encoder(self.decoder, self.encoder.float(), self._pixels(content).float())
        self.encoder.to(self.dtype)

    def _pixels(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, non_blocking=True).to(memory_format=torch.channels_last).float() / 255

    def _start_phase(self) -> None:
        """Muon moves the 4-D weights, as matrices; Adam the biases and the last layer."""
        *hidden, last = self.decoder.convolutions
        self.matrices = [(layer.weight, nn.Parameter(layer.weight.data.flatten(1))) for layer in hidden]
        rest = [*(cast("Tensor", layer.bias) for layer in hidden), *last.parameters()]
        rate = self.settings.learning_rate
        muon = torch.optim.Muon(
            [matrix for _, matrix in self.matrices],
            lr=rate * self.settings.muon_factor,
            weight_decay=0.0,
            adjust_lr_fn="match_rms_adamw",
        )
        self.optimisers = [muon, torch.optim.Adam(rest, lr=rate)]
        self.base_rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]

    @property
    def steps(self) -> int:
        """Steps of the present phase."""
        return self.settings.style_steps if self.phase == "style" else self.settings.reconstruction_steps

    def losses(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Return the present phase's losses for crops in [0, 1]."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if self.phase == "style":
                return style_transfer_losses(self.encoder, self.decoder, content, style)
            return reconstruction_loss(self.encoder, self.decoder, content)

    def train_step(self, content: Tensor, style: Tensor) -> dict[str, float]:
        """Take one step on uint8 crops (B, 3, side, side) and return the losses."""
        losses = self.losses(self._pixels(content), self._pixels(style))
        weights = {"style": self.settings.style_weight}
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        if not torch.isfinite(total):
            raise InputError(f"The loss is not finite at {self.phase} step {self.step}: lower the learning rate.")
        self.decoder.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._update()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _update(self) -> None:
        for weight, matrix in self.matrices:
            matrix.grad = cast("Tensor", weight.grad).flatten(1)
        warm_up = min(1.0, (self.step + 1) / 50)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * self.step / self.steps)).item())
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, self.base_rates, strict=True):
            group["lr"] = rate * warm_up * cosine
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        keep = min(self.settings.averaging, self.step / (self.step + 10))
        for mean, parameter in zip(self.averaged.parameters(), self.decoder.parameters(), strict=True):
            mean.data.lerp_(parameter.data, 1 - keep)

    def run_phase(self, save: Callable[[], None], report: Report) -> None:
        """Go on with the present phase to its end, saving regularly."""
        batches = CropBatches(self.pool, self.settings.crops(self.phase))
        todo: Any = range(self.step, self.steps)
        loader = DataLoader(batches, batch_size=None, sampler=todo, num_workers=1)
        for content, style in plain_errors(loader):
            losses = self.train_step(content, style)
            report(self.phase, self.step, self.steps, losses)
            if self.step % CHECKPOINT_STEPS == 0:
                save()

    def run(self, save: Callable[[], None], report: Report) -> None:
        """Run what is left of both phases."""
        if self.phase == "reconstruction":
            self.run_phase(save, report)
            self.phase, self.step = "style", 0
            self._start_phase()
            save()
        self.run_phase(save, report)

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""
        return {
            "identity": self.identity,
            "phase": self.phase,
            "step": self.step,
            "decoder": self.decoder.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`; raise `InputError` where it was made with other settings."""
        if state.get("identity") != self.identity:
            raise InputError("The unfinished training beside the output has other settings: repeat them or delete it.")
        self.phase, self.step = state["phase"], state["step"]
        self.decoder.load_state_dict(state["decoder"])
        self.averaged.load_state_dict(state["averaged"])
        self._start_phase()
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): give another --output or make room.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The unfinished training {path} is damaged ({reason}): delete it to start again.") from None
    return state


def fit_decoder(pool: Pool, output: Path, encoder: LoadedEncoder, settings: FitSettings, report: Report) -> None:
    """Train a decoder and write it to `output`; an interrupted training goes on from `<output>.state` beside it."""
    fit = DecoderFit(settings, pool, encoder)
    state_file = output.with_name(output.name + ".state")
    if state_file.exists():
        fit.restore(_read_state(state_file))
    fit.run(lambda: _write_atomically(state_file, lambda path: torch.save(fit.state(), path)), report)
    recipe = asdict(settings) | {
        "contents": len(pool.content),
        "styles": [file.stem for file in pool.styles],
        "patterns": list(pool.patterns),
        "torch": torch.__version__,
    }
    _write_atomically(output, lambda path: save_decoder(path, fit.averaged, encoder.sha256, recipe))
    state_file.unlink(missing_ok=True)
