import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from train import load_model
from train.cli import main
from train.config import with_preset

ShardFolderMaker = Callable[..., Path]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def _arguments(folder: Path, out: Path, **changes: str) -> list[str]:
    options = {"shards": str(folder), "arch": "mobilenet_v3_small", "method": "pairing", "out": str(out)}
    return ["run", *(part for name, value in {**options, **changes}.items() for part in (f"--{name}", value))]


def test_a_run(
    make_shard_folder: ShardFolderMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = {"epochs": "1", "batch-size": "8", "lambda": "0.5", "workers": "0", "dtype": "fp32"}
    arguments = _arguments(make_shard_folder(), tmp_path / "out", **small)
    assert _run(monkeypatch, *arguments) == 0
    output = capsys.readouterr()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert f"{metrics['test_accuracy']:.4f}" in output.out
    assert output.err.count("\n") == 1
    assert output.err.startswith("epoch 1/1: loss ")
    card = load_model(tmp_path / "out" / "model.safetensors")[1]
    assert (card.config["pairing_weight"], card.config["batch_size"]) == (0.5, 8)


def test_shards_behind_a_url_train_the_same_model(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_shard_folder()
    small = {"epochs": "1", "batch-size": "8", "workers": "0", "dtype": "fp32"}
    assert _run(monkeypatch, *_arguments(folder, tmp_path / "local", **small)) == 0
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, cache = f"http://127.0.0.1:{server.server_port}/{folder.name}", str(tmp_path / "cache")
        code = _run(monkeypatch, *_arguments(folder, tmp_path / "remote", **small, shards=url, cache=cache))
        server.shutdown()
    assert code == 0
    local, remote = (tmp_path / out / "model.safetensors" for out in ("local", "remote"))
    assert local.read_bytes() == remote.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": "absent"},
        {"arch": "vgg61"},
        {"method": "mixup"},
        {"preset": "best"},
        {"learning-rate": "-1"},
        {"lambda": "nan"},
        {"epochs": "0"},
    ],
)
def test_mistakes_exit_with_2_and_quote_the_value(
    make_shard_folder: ShardFolderMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
) -> None:
    assert _run(monkeypatch, *_arguments(make_shard_folder(), tmp_path / "out", **changes)) == 2
    error = capsys.readouterr().err
    assert next(iter(changes.values())) in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


OPTIONS: dict[str, Any] = {"shards": Path("s"), "method": "pairing", "out": Path("o")}


def test_paper_preset_gives_way_to_what_was_given() -> None:
    paper = with_preset("paper-imagenet100", arch="resnet34", epochs=3, **OPTIONS)
    assert (paper.learning_rate, paper.schedule, paper.image_preset) == (1e-4, "constant", "paper")
    assert (paper.epochs, paper.batch_size, paper.weights) == (3, 32, "imagenet")
    assert with_preset("small-fast", **OPTIONS).arch == "small"
    with pytest.raises(InputError, match="'best'"):
        with_preset("best", **OPTIONS)
    with pytest.raises(InputError, match="--arch is missing"):
        with_preset("default", **OPTIONS)


def test_the_warm_up_of_a_preset_fits_into_few_epochs() -> None:
    warmups = {epochs: with_preset("small-fast", epochs=epochs, **OPTIONS).warmup_epochs for epochs in (1, 2, 12)}
    assert warmups == {1: 0.5, 2: 1.0, 12: 1.0}
    with pytest.raises(InputError, match="--warmup-epochs"):
        with_preset("small-fast", epochs=1, warmup_epochs=1.0, **OPTIONS)
