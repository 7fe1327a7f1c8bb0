import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from attack import fgsm_path, join_paths
from stylize.console import InputError

SHAPE = (3, 4, 5)
CLASSES = 4


@pytest.fixture
def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), CLASSES)).eval()


@pytest.fixture
def images() -> Tensor:
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    pixels[0, 0] = 0.0  # on the border: half of the steps are clipped
    pixels[1, 1] = 1.0
    return pixels


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def slow_path(
    weight: NDArray[np.float64], bias: NDArray[np.float64], start: NDArray[np.float64], label: int, step: float, n: int
) -> list[tuple[bool, float, float, float]]:
    """One image, in float64, with the gradient of the cross-entropy of a linear model written by hand."""
    rows, x = [], start.copy()
    for _ in range(n + 1):
        logits = weight @ x + bias
        distance = x - start
        rows.append(
            (
                bool(logits.argmax() == label),
                -log_softmax(logits)[label],
                np.sqrt((distance**2).sum()),
                np.abs(distance).max(),
            )
        )
        gradient = weight.T @ (softmax(logits) - np.eye(len(bias))[label])
        x = np.clip(x + step * np.sign(gradient), 0.0, 1.0)
    return rows


@pytest.mark.parametrize(("step_size", "steps"), [(1e-4, 100), (0.02, 30), (0.3, 1)])
def test_path_equals_a_slow_loop(linear_model: nn.Module, images: Tensor, step_size: float, steps: int) -> None:
    path = fgsm_path(linear_model, images, LABELS, step_size=step_size, steps=steps)

    weight, bias = (tensor.detach().double().numpy() for tensor in linear_model.parameters())
    for i, image in enumerate(images):
        rows = slow_path(weight, bias, image.double().flatten().numpy(), int(LABELS[i]), step_size, steps)
        correct, loss, l2, linf = (np.array(column) for column in zip(*rows, strict=True))
        np.testing.assert_array_equal(path.correct[i], correct)
        np.testing.assert_allclose(path.loss[i], loss, atol=2e-5)
        np.testing.assert_allclose(path.l2[i], l2, atol=5e-5)
        np.testing.assert_allclose(path.linf[i], linf, atol=1e-5)


def test_distances_are_those_of_the_pixels(linear_model: nn.Module, images: Tensor) -> None:
    path = fgsm_path(linear_model, images, LABELS)

    moved = path.images.double().numpy() - images.double().numpy()
    np.testing.assert_allclose(path.l2[:, -1], np.linalg.norm(moved.reshape(6, -1), axis=1), rtol=1e-12)
    np.testing.assert_allclose(path.linf[:, -1], np.abs(moved).max(axis=(1, 2, 3)), rtol=1e-12)
    assert path.linf[:, -1].max() != 100 * 1e-4  # float32 additions do not add up exactly
    assert path.images.min() >= 0
    assert path.images.max() <= 1


def test_batches_do_not_change_an_image(linear_model: nn.Module, images: Tensor) -> None:
    whole = fgsm_path(linear_model, images, LABELS, steps=20)
    parts = [fgsm_path(linear_model, images[i : i + 1], LABELS[i : i + 1], steps=20) for i in range(len(images))]

    joined = join_paths(parts)

    assert torch.equal(joined.correct, whole.correct)
    torch.testing.assert_close(joined.l2, whole.l2)
    torch.testing.assert_close(joined.images, whole.images)


def test_zero_gradients(images: Tensor) -> None:
    layer = nn.Linear(60, 2)
    model = nn.Sequential(nn.Flatten(), layer).eval()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :7] = 1.0  # only seven pixels matter
    start = torch.full_like(images, 0.5)
    labels = torch.zeros(6, dtype=torch.int64)

    stay = fgsm_path(model, start, labels, steps=2, step_size=0.1)
    minus = fgsm_path(model, start, labels, steps=2, step_size=0.1, zero_gradient="minus-one")

    assert torch.equal(stay.zero_gradients, torch.full((6, 2), 53))
    moved = (stay.images - start).flatten(1)
    torch.testing.assert_close(moved[:, :7], torch.full((6, 7), -0.2))  # the true class is the one with weight 1
    assert not moved[:, 7:].any()
    torch.testing.assert_close(minus.images, torch.full_like(start, 0.3))


def test_the_models_parameters_are_untouched(linear_model: nn.Module, images: Tensor) -> None:
    before = [parameter.clone() for parameter in linear_model.parameters()]
    fgsm_path(linear_model, images, LABELS, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, linear_model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in linear_model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "Step size is 0.0"),
        ({"step_size": float("nan")}, "Step size is nan"),
        ({"steps": 0}, "Steps is 0"),
        ({"zero_gradient": "up"}, "'up'"),
    ],
)
def test_arguments_out_of_range(
    linear_model: nn.Module, images: Tensor, change: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fgsm_path(linear_model, images, LABELS, **change)  # type: ignore[arg-type]


def test_bad_images_and_training_mode(linear_model: nn.Module, images: Tensor) -> None:
    for bad, message in (
        (images * 255, "scale them"),
        (images - 0.5, "scale them"),
        (images * float("nan"), "scale them"),
        (images.double(), "float64"),
        (images[0], "shape"),
    ):
        with pytest.raises(InputError, match=message):
            fgsm_path(linear_model, bad, LABELS)
    with pytest.raises(InputError, match="training mode"):
        fgsm_path(linear_model.train(), images, LABELS)
