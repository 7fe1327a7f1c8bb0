"""Split BatchNorm against two networks that share their weights."""

import copy

import torch
from torch import nn

from train import build_model
from train.batch_norm import views_in_batch, with_auxiliary, without_auxiliary


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
