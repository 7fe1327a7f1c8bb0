import pytest

from attack import AttackConfig
from attack.attacks import epsilon_name
from attack.attacks.paper_path import ZERO_GRADIENT
from attack.evaluation import with_batch_size
from attack.evaluation.suite import plan_attacks
from stylize.console import InputError
from stylize.console.settings import parse_epsilon


@pytest.mark.parametrize(
    ("text", "value", "name"), [("8/255", 8 / 255, "8/255"), ("0.03", 0.03, "0.03"), ("1", 1.0, "255/255")]
)
def test_epsilons_are_read_and_named(text: str, value: float, name: str) -> None:
    assert parse_epsilon(text) == value
    assert epsilon_name(value) == name


@pytest.mark.parametrize("text", ["", "eight", "8/0", "8/", "/255", "1/2/3"])
def test_what_is_no_epsilon(text: str) -> None:
    with pytest.raises(InputError, match="fraction such as 8/255"):
        parse_epsilon(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "huge"}, "paper, quick, full"),
        ({"images": 0}, "--images is 0"),
        ({"strong_images": 0}, "--strong-images is 0"),
        ({"batch_size": -1}, "--batch-size is -1"),
        ({"epsilons": ()}, "none"),
        ({"epsilons": (8 / 255, 2 / 255)}, "growing"),
        ({"epsilons": (0.1, 0.1)}, "different"),
        ({"epsilons": (8.0,)}, "--epsilon is 8.0"),
        ({"epsilons": (float("nan"),)}, "--epsilon is nan"),
        ({"norm": "linf,l3"}, "--norm is 'linf,l3'"),
        ({"norm": "l2,l2"}, "--norm is 'l2,l2'"),
        ({"norm": "l2", "epsilons_l2": (1.0, 0.5)}, "--epsilon-l2 is 1, 0.5"),
        ({"norm": "l1", "epsilons_l1": (0.0,)}, "--epsilon-l1 is 0"),
        ({"steps": 0}, "--steps is 0"),
        ({"step_size": 1.5}, "--step-size is 1.5"),
        ({"zero_gradient": "up"}, "'up'"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AttackConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "images"), [(16, 200), (32, 200), (48, 88), (64, 50), (224, 50)])
def test_small_images_are_attacked_more_at_a_time(side: int, images: int) -> None:
    assert with_batch_size(AttackConfig(), side).batch_size == images
    assert with_batch_size(AttackConfig(batch_size=7), side).batch_size == 7


@pytest.mark.parametrize(("change", "classes", "queries"), [({}, 10, 5000), ({"eot": 2}, 10, 1000), ({}, 3, 1000)])
def test_square_is_autoattacks_own_where_its_standard_version_follows(
    change: dict[str, int], classes: int, queries: int
) -> None:
    planned = plan_attacks(AttackConfig(suite="full", **change), classes)  # type: ignore[arg-type]
    assert {one.settings["queries"] for one in planned if one.name == "square"} == {queries}


def test_zero_gradients_are_those_of_the_path() -> None:
    for name in ZERO_GRADIENT:
        AttackConfig(zero_gradient=name)
    with pytest.raises(InputError, match=", ".join(ZERO_GRADIENT)):
        AttackConfig(zero_gradient="plus-one")
