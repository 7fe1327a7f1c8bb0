"""Train a decoder for an encoder, resumable: `stylize fit-decoder`."""

import copy
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from stylize.console import PATIENCE, InputError, plain_errors
from stylize.files import UNREADABLE, file_sha256, why_unreadable, write_atomically
from stylize.fitting import FitSettings, Phase
from stylize.fitting.data import CropBatches, Pool, sample_sheet
from stylize.fitting.optimise import (
    Optimisation,
    initialise_from_encoder,
    statistics_of,
    style_targets,
    style_transfer_losses,
)
from stylize.networks.adain import Decoder, Encoder, unit_range
from stylize.networks.devices import best_dtype, find_device
from stylize.networks.weights import LoadedEncoder, load_decoder, read_recipe, save_decoder

CALLS_BEFORE = 3  # so that every library has chosen its kernels and the optimisers have their state
CHECKPOINT_STEPS = 100
Report = Callable[[Phase, int, dict[str, float]], None]


def fit_decoder(
    pool: Pool, output: Path, encoder: LoadedEncoder, settings: FitSettings, report: Report, start: Path | None = None
) -> None:
    """Train a decoder and write it to `output`; an interrupted training continues from `<output>.state` beside it.

    It starts from the weights of the decoder `start`, else the encoder's. `<output>.samples.png` shows its progress.
    Raises `InputError` where that state is damaged or has other settings, and where the loss is not finite.
    """
    fit = DecoderFit(settings, pool, encoder, start)
    state_file, samples = (output.with_name(output.name + ending) for ending in (".state", ".samples.png"))
    if state_file.exists():
        fit.restore(_read_state(state_file))

    def save() -> None:
        buffer = io.BytesIO()
        torch.save(fit.state(), buffer)
        write_atomically(state_file, buffer.getvalue())
        write_atomically(samples, sample_sheet(fit.optimisation.averaged, fit.encoder, pool, settings))

    fit.run(save, report)
    recipe = asdict(settings) | {
        "contents": len(pool.content),
        "styles": [file.stem for file in pool.styles],
        "patterns": list(pool.patterns),
        **({"start": fit.start_sha256, "start_recipe": read_recipe(start)} if start else {}),
        "torch": torch.__version__,
    }
    save_decoder(output, fit.optimisation.averaged, encoder.sha256, recipe)
    state_file.unlink(missing_ok=True)


def _read_state(path: Path) -> dict[str, Any]:
    """Read a `DecoderFit.state()`; raise `InputError` where the file is damaged or holds anything else."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("not a training's state")
    except UNREADABLE as error:
        reason = why_unreadable(path, error)
        raise InputError(f"The unfinished training {path} is damaged ({reason}): delete it to start again.") from None
    return state


class DecoderFit:
    """A decoder in training: its weights, what updates them, and the position in the recipe."""

    def __init__(self, settings: FitSettings, pool: Pool, encoder: LoadedEncoder, start: Path | None = None) -> None:
        self.settings, self.pool = settings, pool
        self.device = find_device()
        self.dtype = best_dtype(self.device)
        self.encoder: Encoder = copy.deepcopy(encoder.network)
        self.encoder.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        decoder = load_decoder(start, encoder.sha256).requires_grad_() if start else Decoder()
        self.start_sha256 = file_sha256(start) if start else None
        # What a training must agree in with the one that it continues: settings, pictures and weights.
        pictures = [[file.name for file in files] for files in (pool.content, pool.styles)]
        self.identity = json.dumps([asdict(settings), pictures, pool.patterns, encoder.sha256, self.start_sha256])
        self.decoder = decoder.to(self.device)
        self.step = 0
        if not start:
            content, _ = CropBatches(pool, settings, settings.phases[0].side)[0]
            initialise_from_encoder(self.decoder, self.encoder.float(), self._pixels(content).float())
            self.encoder.to(self.dtype)
        self.optimisation = Optimisation(self.decoder, settings, self.dtype)
        self.recorded: dict[Any, Recorded] = {}
        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # every batch of a phase has the same shapes

    def _pixels(self, batch: Tensor) -> Tensor:
        return unit_range(batch.to(self.device, non_blocking=True))

    def train_step(self, loss: str, content: Tensor, style: Tensor) -> dict[str, float]:
        """Update once per pairing of uint8 crops (B, 3, side, side); return the last losses."""
        key = (loss, content.shape, style.shape)
        if key not in self.recorded:  # a phase's, so that the memory of the last one is free again
            self.recorded = {key: Recorded(partial(self._updates, loss), self.device)}
        self.optimisation.set_step(self.step)
        found = {name: float(value) for name, value in self.recorded[key](content, style).items()}
        if not all(map(math.isfinite, found.values())):
            raise InputError(f"The loss is not finite at step {self.step}: lower the learning rate.")
        self.step += 1
        return found

    def _updates(self, loss: str, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        compute = self._reconstruction if loss == "reconstruction" else self._style_transfer
        weights = {"style": self.settings.style_weight, "identity": self.settings.identity_weight}
        found: dict[str, Tensor] = {}
        for found in compute(self._pixels(content), self._pixels(style)):
            self.optimisation.descend(torch.stack([weights.get(name, 1.0) * found[name] for name in found]).sum())
        return {name: value.detach() for name, value in found.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _reconstruction(self, content: Tensor, _style: Tensor) -> Iterator[dict[str, Tensor]]:
        with self._autocast():
            with torch.no_grad():
                features = self.encoder(content)
            yield {"reconstruction": F.l1_loss(self.decoder(features).float(), content)}

    def _style_transfer(self, content: Tensor, style: Tensor) -> Iterator[dict[str, Tensor]]:
        """Pair every content with `pairings` styles in turn; the first is always its own style."""
        with self._autocast(), torch.no_grad():
            content_layers = self.encoder.style_features(content)
            own, given = statistics_of(content_layers), statistics_of(self.encoder.style_features(style))
        layers = [zip(*layer, strict=True) for layer in zip(own, given, strict=True)]
        styles = [tuple(torch.cat([mine[:1], theirs[1:]]) for mine, theirs in layer) for layer in layers]
        for turn in range(self.settings.pairings):
            wanted = [(_turned(mean, turn), _turned(std, turn)) for mean, std in styles]
            targets = style_targets(content_layers[-1], own, wanted)
            with self._autocast():
                output = self.decoder(targets.features)
                losses = style_transfer_losses(self.encoder, output, targets)
            yield losses | {"identity": F.l1_loss(output[0].float(), content[0])}

    def _loader(self, batches: CropBatches, steps: Any) -> DataLoader[tuple[Tensor, Tensor]]:
        """Draw batches in other processes: one beside a CPU that trains, all CPUs for a GPU, which must never wait."""
        on_gpu = self.device.type == "cuda"
        workers = max(1, (os.cpu_count() or 2) - 1) if on_gpu else 1
        return DataLoader(
            batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=on_gpu, timeout=PATIENCE
        )

    def run(self, save: Callable[[], None], report: Report) -> None:
        """Run what is left of every phase, saving regularly and at the end."""
        first = 0
        for phase in self.settings.phases:
            todo: Any = range(max(self.step, first), first + phase.steps)
            batches = CropBatches(self.pool, self.settings, phase.side, phase.style_side)
            for content, style in plain_errors(self._loader(batches, todo)):
                losses = self.train_step(phase.loss, content, style)
                report(phase, self.step - first, losses)
                if self.step % CHECKPOINT_STEPS == 0:
                    save()
            first += phase.steps
        if self.step % CHECKPOINT_STEPS:
            save()

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""
        return {"identity": self.identity, "step": self.step} | self.optimisation.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`; raise `InputError` where it was made with other settings."""
        if state.get("identity") != self.identity:
            raise InputError("The unfinished training beside the output has other settings: repeat them or delete it.")
        self.step = state["step"]
        self.optimisation.restore(state)


def _turned(values: Tensor, turn: int) -> Tensor:
    """Rotate samples (B, ...) but the first, without an index, which a GPU would have to be sent."""
    return torch.cat([values[:1], values[1 + turn :], values[1 : 1 + turn]])


class Recorded:
    """A function of a batch on a device, whose kernels are recorded on a GPU after some calls; elsewhere just called.

    Batches must have the same shapes, and everything else that the function reads or changes must stay where it is.
    Results are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], device: torch.device) -> None:
        self.function, self.device, self.calls = function, device, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.results: dict[str, Tensor] = {}

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return the function's results for a batch, from any device."""
        if self.device.type != "cuda":
            return self.function(*batch)
        self.inputs = self.inputs or [torch.empty_like(given, device=self.device) for given in batch]
        for mine, given in zip(self.inputs, batch, strict=True):
            mine.copy_(given, non_blocking=True)
        self.calls += 1
        if self.calls <= CALLS_BEFORE:
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # of its own, as recording will
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                results = self.function(*self.inputs)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            return results
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.results = self.function(*self.inputs)
        self.graph.replay()
        return self.results
