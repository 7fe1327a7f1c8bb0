import csv
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stylize.console import InputError
from train import PairedShards, TrainConfig, evaluate, image_preset, load_model, train_model
from train.methods import METHODS, Losses, Settings
from train.run import recalibration_batches, refuse_single_class, warn_of_wrong_pairs

ShardFolderMaker = Callable[..., Path]
HERE = f"{__name__}:network"
RESULTS = ["metrics.csv", "metrics.json", "model.safetensors", "record.json"]


def _config(shards: Path, out: Path) -> TrainConfig:
    """Two epochs of three steps."""
    return TrainConfig(shards, "small", "pairing", out, epochs=2, batch_size=6, dtype="fp32", device="cpu", workers=0)


def network(classes: int) -> nn.Module:
    """Return a small network with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 15 * 15, classes)
    )


@pytest.fixture
def config(make_shard_folder: ShardFolderMaker, tmp_path: Path) -> TrainConfig:
    return _config(make_shard_folder(size=32), tmp_path / "out")


def _rows(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv", newline="") as file:
        return [{name: row[name] for name in row if "second" not in name} for row in csv.DictReader(file)]


def _stop_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int, stop: Callable[[], None]) -> None:
    """Register a method that computes the same loss and stops the run at its n-th call."""
    original = METHODS[method]
    calls: list[None] = []

    def loss(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
        calls.append(None)
        if len(calls) == call:
            stop()
        return original.loss(model, views, labels, settings)

    monkeypatch.setitem(METHODS, method, replace(original, loss=loss))


def _terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def _crash() -> None:
    raise RuntimeError("power cut")


def test_results_of_a_run(config: TrainConfig) -> None:
    metrics = train_model(config)
    assert sorted(path.name for path in config.out.iterdir()) == RESULTS
    assert metrics == json.loads((config.out / "metrics.json").read_text())
    model, card = load_model(config.out / "model.safetensors")
    samples, preset = PairedShards(config.shards, "test"), image_preset(card.image_preset, card.image_size)
    assert evaluate(model, samples, preset) == metrics["test_accuracy"]
    rows = _rows(config.out)
    assert max(float(row["validation_accuracy"]) for row in rows) == metrics["best_validation_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert (metrics["training_images"], metrics["validation_images"], metrics["test_images"]) == (22, 2, 12)
    assert (card.arch, card.method, card.class_names) == (config.arch, config.method, samples.class_names)
    record = json.loads((config.out / "record.json").read_text())
    assert record["settings"] == card.config
    assert set(record["test_accuracy_by_class"]) == set(samples.class_names)
    assert record["flop_per_image"] > 1e6
    assert "images_per_second" in (config.out / "metrics.csv").read_text()
    assert str(config.shards) not in json.dumps(card.config)  # a shared model tells nobody's paths


@pytest.mark.parametrize(
    ("call", "stop", "error"),  # an epoch is three steps and three batches for BatchNorm's statistics
    [(2, _terminate, SystemExit), (5, _crash, RuntimeError), (8, _terminate, SystemExit), (8, _crash, RuntimeError)],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    stop: Callable[[], None],
    error: type[BaseException],
) -> None:
    config = replace(config, arch=HERE)  # which has dropout
    whole = replace(config, out=config.out.with_name("whole"))
    train_model(whole)
    with monkeypatch.context() as patch:
        _stop_at(patch, "pairing", call, stop)
        with pytest.raises(error):
            train_model(config)
    assert not (config.out / "model.safetensors").exists()
    assert (config.out / "state.pt").exists() == (stop is _terminate or call > 6)
    train_model(replace(config, workers=1))
    assert (config.out / "model.safetensors").read_bytes() == (whole.out / "model.safetensors").read_bytes()
    assert _rows(config.out) == _rows(whole.out)
    assert sorted(path.name for path in config.out.iterdir()) == RESULTS


def test_a_finished_run_is_neither_repeated_nor_replaced(config: TrainConfig) -> None:
    train_model(config)
    before = {path.name: path.stat().st_mtime_ns for path in config.out.iterdir()}
    train_model(replace(config, workers=1))
    with pytest.raises(InputError, match=r"finished model with other settings \(--epochs 2 is now 1\)"):
        train_model(replace(config, epochs=1))
    assert {path.name: path.stat().st_mtime_ns for path in config.out.iterdir()} == before


def test_a_damaged_model_is_trained_again(config: TrainConfig) -> None:
    train_model(config)
    model = config.out / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:100])
    train_model(config)
    assert model.read_bytes() == whole


def test_a_run_keeps_others_out_of_its_folder(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def start_another() -> None:
        with pytest.raises(InputError) as caught:
            train_model(replace(config, seed=1))
        refused.append(str(caught.value))

    _stop_at(monkeypatch, "pairing", 2, start_another)
    train_model(config)
    assert refused == [f"Another run is at work in {config.out}: wait for it to end, or choose another output folder."]
    assert sorted(path.name for path in config.out.iterdir()) == RESULTS


def test_an_unfinished_run_is_never_mixed_with_other_settings(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, make_shard_folder: ShardFolderMaker
) -> None:
    _stop_at(monkeypatch, "pairing", 2, _terminate)
    with pytest.raises(SystemExit) as caught:
        train_model(config)
    assert caught.value.code == 128 + signal.SIGTERM
    with pytest.raises(InputError, match=r"other settings \(--lambda 1.0 is now 0.5; --seed 0 is now 1\)"):
        train_model(replace(config, pairing_weight=0.5, seed=1))
    with pytest.raises(InputError, match="the SHA-256 of the shards' manifest"):
        train_model(replace(config, shards=make_shard_folder("other", size=32, seed=1)))
    (config.out / "state.pt").write_bytes((config.out / "state.pt").read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read"):
        train_model(config)


@pytest.mark.parametrize("method", METHODS)
def test_bf16_trains_every_method_and_tests_in_float32(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, method: str
) -> None:
    config = _config(make_shard_folder(size=32, styles_per_image=2), tmp_path / "out")
    metrics = train_model(replace(config, arch=HERE, method=method, dtype="bf16", epochs=1, attack_steps=1))
    model, _ = load_model(config.out / "model.safetensors")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    assert 0 <= metrics["test_accuracy"] <= 1


def test_few_steps_from_scratch_already_work_in_eval_mode(make_shard_folder: ShardFolderMaker, tmp_path: Path) -> None:
    """With the moving averages of BatchNorm this model guesses after so few steps (torchvision's momentum or 0.1)."""
    shards = make_shard_folder(size=32, train=120, test=30)
    config = TrainConfig(
        shards, "mobilenet_v3_small", "normal", tmp_path / "out", epochs=3, batch_size=12, dtype="fp32", workers=0
    )
    assert train_model(config)["test_accuracy"] > 0.7


@pytest.mark.parametrize(
    ("steps", "batch_size", "batches"),
    [(700, 64, 20), (80, 256, 20), (40, 256, 10), (18, 64, 4), (2, 256, 1), (90, 2, 20)],
)
def test_recalibration_takes_a_quarter_of_a_short_epoch(steps: int, batch_size: int, batches: int) -> None:
    assert recalibration_batches(steps, batch_size) == batches


def test_a_diverged_run_says_so(config: TrainConfig) -> None:
    with pytest.raises(InputError, match="lower the learning rate"):
        train_model(replace(config, learning_rate=1e30))
    assert list(config.out.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ({"styles_per_image": 0}, {}, "has 0 stylized copies an image, but the method 'pairing' needs 1: make"),
        ({}, {"method": "normal", "stylized_fraction": 0.5}, "--stylized-fraction .*'normal'"),
        ({"train": 5}, {}, "4 training samples cannot fill a batch of 6"),
        ({"size": None}, {"image_preset": "small"}, "images of one size"),
        ({}, {"device": "nonsense"}, "Device 'nonsense'"),
        ({}, {"weights": "absent.pth"}, "absent.pth do not exist"),
        ({}, {"shards": Path("absent")}, "absent is not a finished shard folder"),
    ],
)
def test_bad_input_leaves_no_result(
    make_shard_folder: ShardFolderMaker,
    tmp_path: Path,
    folder: dict[str, int],
    changes: dict[str, object],
    message: str,
) -> None:
    config = replace(_config(make_shard_folder(**folder), tmp_path / "out"), **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        train_model(config)
    assert not config.out.exists() or list(config.out.iterdir()) == []


def test_normal_needs_no_copies_and_no_test_split(make_shard_folder: ShardFolderMaker, tmp_path: Path) -> None:
    config = _config(make_shard_folder(styles_per_image=0, test=0), tmp_path / "out")
    assert train_model(replace(config, method="normal", epochs=1))["test_accuracy"] is None


def test_two_processes(make_shard_folder: ShardFolderMaker, tmp_path: Path, commands: Path) -> None:
    """Both run the same number of steps on an uneven data set (23 samples), and one writes."""
    out = tmp_path / "out"
    options = "--arch small --method adversarial --epochs 1 --attack-steps 1 --batch-size 4 --dtype fp32 --device cpu"
    command = ["train", "run", "--shards", str(make_shard_folder(train=25, size=32)), "--out", str(out)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [*command, *options.split(), "--workers", "0"],
            env={**common, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    assert "epoch 1/1" in errors[0]
    assert "epoch" not in errors[1]
    assert "Warning" not in "".join(errors)
    assert load_model(out / "model.safetensors")[1].config["world_size"] == 2


def _warnings(shards: Path) -> list[str]:
    warnings: list[str] = []
    warn_of_wrong_pairs(PairedShards(shards, "train"), {"test": PairedShards(shards, "test")}, warnings.append)
    return warnings


def test_sound_shards_say_nothing(make_shard_folder: ShardFolderMaker) -> None:
    assert _warnings(make_shard_folder()) == []
    assert _warnings(make_shard_folder("bare", styles_per_image=0, test=0)) == []


def test_mixed_up_pairs_are_warned_of(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder()
    samples = PairedShards(shards, "train")
    samples.index.spans[:, 1] = samples.index.spans[::-1, 1][:, :]
    warnings: list[str] = []
    warn_of_wrong_pairs(samples, {}, warnings.append)
    assert [warning[:14] for warning in warnings] == ["Warning: only "]


def test_a_single_class_is_refused(make_shard_folder: ShardFolderMaker) -> None:
    with pytest.raises(InputError, match="of one class"):
        refuse_single_class(PairedShards(make_shard_folder(classes=1), "train"))
