"""Each part of the recipe against PyTorch's own, or a loop written out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stylize.console import InputError
from train import TrainConfig
from train.distributed import World
from train.evaluation import Metrics
from train.loop import Trainer, averaged, learning_rate, make_optimizer, mix, smooth
from train.models import SmallNetwork, make_network, whitening

CONFIG = TrainConfig(Path("shards"), "small", "pairing", Path("out"), epochs=10, learning_rate=0.1, dtype="fp32")
CPU = World(0, 1, torch.device("cpu"))


def test_learning_rates() -> None:
    def rates(schedule: str, warmup: float) -> list[float]:
        config = replace(CONFIG, schedule=schedule, warmup_epochs=warmup)
        return [round(learning_rate(config, epochs), 4) for epochs in (0, 1, 2, 6, 8)]

    assert rates("constant", 0) == [0.1] * 5
    assert rates("constant", 2) == [0, 0.05, 0.1, 0.1, 0.1]
    assert rates("linear", 2) == [0, 0.05, 0.1, 0.05, 0.025]
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], 0.1), 10)
    for epochs in range(10):
        assert learning_rate(replace(CONFIG, schedule="cosine"), epochs) == pytest.approx(cosine.get_last_lr()[0])
        cosine.optimizer.step()
        cosine.step()


def test_weight_decay_is_for_matrices_and_filters() -> None:
    model = SmallNetwork(3)
    for name in ("sgd", "adamw", "adam"):
        groups = make_optimizer(replace(CONFIG, optimizer=name, weight_decay=0.1), model).param_groups
        decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert set(decays) == set(learnt)
        assert all(decays[parameter] == (0.1 if parameter.ndim > 1 else 0) for parameter in learnt)


def test_smoothing_is_that_of_pytorch() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 1])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, smooth(labels, 0.2, 4)), expected)
    assert smooth(labels, 0, 4) is labels


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_pairs_are_mixed_alike_and_their_labels_by_the_same_share(kind: str) -> None:
    """Images and copies that hold their label's number everywhere show what each pixel came from."""
    labels = torch.arange(6)
    views = labels.view(6, 1, 1, 1, 1).expand(6, 2, 3, 16, 16).float()
    config = replace(CONFIG, mixup=float(kind == "mixup"), cutmix=float(kind == "cutmix"))
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, soft = mix(config, views, labels, 6)
        assert torch.equal(mixed[:, 0], mixed[:, 1])
        torch.testing.assert_close(soft.sum(1), torch.ones(6))
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), soft @ torch.arange(6.0), rtol=1e-4, atol=1e-5)
        if kind == "cutmix":
            assert set(mixed.flatten().tolist()) <= set(range(6))


def test_without_mixing_nothing_is_drawn() -> None:
    views, labels = torch.zeros(2, 1, 3, 4, 4), torch.tensor([0, 1])
    torch.manual_seed(0)
    assert mix(CONFIG, views, labels, 2) == (views, labels)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_averaged_weights_follow_the_loop_written_out() -> None:
    model = nn.Linear(2, 1)
    average, expected = averaged(model, 0.9), model.weight.detach().clone()
    for update in range(30):
        with torch.no_grad():
            model.weight.add_(1)
        average.update_parameters(model)
        kept = 0.0 if update == 0 else min(0.9, (1 + update) / (10 + update))
        expected = kept * expected + (1 - kept) * model.weight.detach()
    torch.testing.assert_close(average.module.weight, expected)


def _images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (4, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([0, 1, 2, 0])


def _trained(config: TrainConfig, model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Trainer:
    trainer = Trainer(config, model, CPU, len(batches), 3)
    assert trainer.run_epoch(batches, lambda: False, lambda count: None)
    return trainer


def _linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3))


def test_two_accumulated_batches_move_weights_as_one_of_twice_the_size() -> None:
    batches = [_images(seed) for seed in range(4)]
    joined = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(batches[::2], batches[1::2], strict=True)
    ]
    config = replace(CONFIG, optimizer="sgd", schedule="constant")
    apart, whole = _linear(), _linear()
    _trained(replace(config, accumulate=2), apart, batches)
    _trained(config, whole, joined)
    for ours, theirs in zip(apart.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_last_update_of_an_epoch_averages_over_the_batches_that_it_has() -> None:
    batches = [_images(seed) for seed in range(3)]
    joined = (torch.cat([batches[0][0], batches[1][0]]), torch.cat([batches[0][1], batches[1][1]]))
    config = replace(CONFIG, optimizer="sgd", schedule="constant")
    apart, whole = _linear(), _linear()
    _trained(replace(config, accumulate=2), apart, batches)
    _trained(config, whole, [joined, batches[2]])
    for ours, theirs in zip(apart.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_pause_waits_for_a_whole_update() -> None:
    trainer = Trainer(replace(CONFIG, accumulate=3), _linear(), CPU, 7, 3)
    assert not trainer.run_epoch([_images()] * 7, lambda: True, lambda count: None)
    assert trainer.progress.step == 3


def test_clipping_bounds_the_step() -> None:
    model, before = _linear(), _linear()
    _trained(replace(CONFIG, optimizer="sgd", schedule="constant", clip_norm=1e-3), model, [_images()])
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)])
    assert float(moved.norm().detach()) == pytest.approx(0.1 * 1e-3 * 1.9, rel=1e-3)  # Nesterov's first step


def test_the_averaged_model_is_judged_kept_and_resumed() -> None:
    config = replace(CONFIG, ema=0.9)
    trainer = _trained(config, _linear(), [_images(seed) for seed in range(3)])
    trainer.finish_epoch(Metrics(torch.tensor([[2.0, 1, 2, 1, 0.5], [1, 1, 1, 0, 1.5], [1, 0, 1, 0, 0]])))
    weight = trainer.evaluated.get_parameter("2.weight")
    assert not torch.equal(weight, trainer.model.get_parameter("2.weight"))
    assert torch.equal(trainer.progress.best_model["2.weight"], weight)
    row = trainer.progress.rows[0]
    assert (row["validation_accuracy"], row["validation_copy_accuracy"], row["validation_pair_distance"]) == (
        0.5,
        0.25,
        0.5,
    )
    other = Trainer(config, _linear(), CPU, 3, 3)
    other.resume(trainer.state({}))
    assert torch.equal(other.evaluated.get_parameter("2.weight"), weight)


@pytest.mark.slow
def test_compiled_training_is_training() -> None:
    eager, compiled = _linear(), _linear()
    config = replace(CONFIG, optimizer="sgd", schedule="constant")
    _trained(config, eager, [_images()])
    trainer = _trained(replace(config, compile=True), compiled, [_images()])
    assert set(trainer.model.state_dict()) == set(eager.state_dict())
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_floating_point_operations_of_a_step() -> None:
    trainer = _trained(CONFIG, _linear(), [_images()])
    forward = 2 * 2 * 48 * 3  # two images of a pair, a multiplication and an addition for each weight
    assert trainer.flops_per_image == 2 * forward  # backward only the weights' gradient: images need none


def test_the_small_network_whitens_photographs_and_starts_by_passing_on() -> None:
    assert whitening().shape == (12, 3, 2, 2)
    images = torch.full((1, 3, 32, 32), 0.5)
    assert SmallNetwork(7)(images).shape == (1, 7)
    first = SmallNetwork(7).get_parameter("groups.0.0.weight")
    assert torch.equal(first[:24], torch.eye(24).view(24, 24, 1, 1) * F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)))
    with pytest.raises(InputError, match="no small stem"):
        make_network("small", 3, "small")
