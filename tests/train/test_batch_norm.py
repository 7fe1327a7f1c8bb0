"""Split BatchNorm against two networks that share their weights."""

import copy

import pytest
import torch
from torch import nn

from stylize.console import InputError
from train import build_model
from train.batch_norm import fresh_statistics, synchronised, views_in_batch, with_auxiliary, without_auxiliary


def test_each_kind_of_image_is_normalised_by_its_own_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    originals, copies = torch.rand(5, 3, 8, 8), 3 * torch.rand(5, 2, 3, 8, 8)
    one, other = copy.deepcopy(network), copy.deepcopy(network)
    expected = one(originals), other(copies.flatten(0, 1))
    both = with_auxiliary(copy.deepcopy(network))
    with views_in_batch(both, 3):
        result = both(torch.cat([originals[:, None], copies], 1).flatten(0, 1)).unflatten(0, (5, 3))
    torch.testing.assert_close(result[:, 0], expected[0])
    torch.testing.assert_close(result[:, 1:].flatten(0, 1), expected[1])
    torch.testing.assert_close(both.get_buffer("1.running_mean"), one.get_buffer("1.running_mean"))
    torch.testing.assert_close(both.get_buffer("1.auxiliary.running_var"), other.get_buffer("1.running_var"))
    torch.testing.assert_close(both.eval()(originals), one.eval()(originals))


def test_evaluation_knows_the_main_statistics_alone() -> None:
    plain = build_model("resnet18", 3)
    names = list(plain.state_dict())
    both = with_auxiliary(plain)
    assert len(both.state_dict()) > len(names)
    images = torch.rand(4, 3, 32, 32)
    with views_in_batch(both, 2):
        both(images)
    expected = both.eval()(images)
    again = without_auxiliary(both)
    assert list(again.state_dict()) == names
    torch.testing.assert_close(again(images), expected)


def test_frozen_scales_stay_frozen() -> None:
    for replaced in (with_auxiliary, lambda model: synchronised(model, torch.device("cpu"))):
        plain = build_model("small", 3)
        learning = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
        learn = {name for name, parameter in replaced(plain).named_parameters() if parameter.requires_grad}
        assert {name.replace("auxiliary.", "") for name in learn} == learning
    assert {name for name, each in without_auxiliary(plain).named_parameters() if each.requires_grad} == learning


@pytest.mark.parametrize(
    ("arch", "message"), [("timm/efficientnet_b0", "BatchNormAct2d"), ("vit_b_32", "no BatchNorm")]
)
def test_what_cannot_be_split_is_refused(arch: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        with_auxiliary(build_model(arch, 3))


def test_a_norm_without_running_statistics_has_none_to_renew() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    with fresh_statistics(norm):
        norm(torch.rand(2, 3, 4, 4))
    assert norm.running_mean is None
