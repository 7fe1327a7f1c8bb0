import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylize.networks.adain import _Reflection, bordered, channel_statistics, reflected, replicated


def features(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 2, shape)).to(dtype)
    return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values


def numpy_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    array = values.double().numpy()
    mean, variance = (of(array, axis=(2, 3), keepdims=True) for of in (np.mean, np.var))
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(variance + 1e-5))


@pytest.mark.parametrize(("distance", "mode"), [(1, "reflect"), (0, "edge")])
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 5, 3, 7), (2, 1, 8, 4)])
def test_borders_are_those_of_numpy(distance: int, mode: str, shape: tuple[int, ...]) -> None:
    given = features(*shape)
    wanted = np.pad(given.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)  # type: ignore[call-overload]
    with torch.inference_mode():
        by_library = (replicated, reflected)[distance](given)
    for found in (bordered(given, distance), by_library):
        np.testing.assert_array_equal(found.numpy(), wanted)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 2, 3, 5), (2, 1, 4, 3)])
def test_the_gradient_of_reflection_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(_Reflection.apply, features(*shape).requires_grad_())


def test_borders_keep_their_type_in_mixed_precision() -> None:
    given = features(1, 2, 3, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert reflected(given).dtype == torch.bfloat16


def test_the_gradients_of_channel_statistics_are_the_librarys() -> None:
    given, weights = features(2, 3, 5, 4), features(2, 2, 3, 1, 1)
    variance, mean = torch.var_mean(given.requires_grad_(), dim=(2, 3), correction=0, keepdim=True)
    wanted = torch.autograd.grad(torch.stack([mean, (variance + 1e-5).sqrt()]), given, weights)
    single = given.detach().float().requires_grad_()
    found = torch.autograd.grad(torch.stack(channel_statistics(single)), single, weights.float())
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_channel_statistics_are_biased_with_epsilon_under_the_root(layout: torch.memory_format) -> None:
    given = features(2, 3, 5, 4, dtype=torch.float32).to(memory_format=layout)
    for found, wanted in zip(channel_statistics(given), numpy_statistics(given), strict=True):
        assert found.shape == (2, 3, 1, 1)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)


def test_channel_statistics_keep_small_deviations_from_a_large_mean() -> None:
    given = features(1, 4, 32, 32, dtype=torch.float32) * 1e-2 + 100
    _, std = channel_statistics(given)
    torch.testing.assert_close(std.double(), numpy_statistics(given)[1], rtol=1e-4, atol=0)


def test_channel_statistics_of_bfloat16_are_summed_in_float32() -> None:
    given = features(1, 4, 64, 64, dtype=torch.bfloat16)
    for found, wanted in zip(channel_statistics(given), numpy_statistics(given), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_borders_on_a_gpu_are_those_of_the_cpu() -> None:
    given, weights = features(2, 3, 6, 7), features(2, 3, 8, 9)
    gradients: list[Tensor] = []
    for device in ("cpu", "cuda"):
        pixels = given.to(device).requires_grad_()
        padded = reflected(pixels)
        torch.testing.assert_close(padded.cpu(), F.pad(given, (1, 1, 1, 1), mode="reflect"), rtol=0, atol=0)
        gradients += torch.autograd.grad(padded, pixels, weights.to(device))
    torch.testing.assert_close(gradients[0], gradients[1].cpu())
