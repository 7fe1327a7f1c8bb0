"""One declaration a setting: options, defaults, help and ranges of a command come from a dataclass."""

from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from stylize.console import InputError
from stylize.console.settings import OneOf, check_settings, options_of


@dataclass(frozen=True)
class Settings:
    out: Annotated[str, typer.Option(help="Where to.")]
    size: Annotated[int | None, typer.Option(min=8, max=64, help="Side in pixels.")] = None
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength.")] = 0.5
    weight: Annotated[float, typer.Option("--lambda", min=0)] = 1.0
    codec: Annotated[str, OneOf("jpg", "png"), typer.Option(help="Of copies.")] = "jpg"
    style: Annotated[tuple[str, ...], typer.Option(help="Repeat for more.")] = ("swirls",)
    fast: Annotated[bool, typer.Option("--fast", help="Fast.")] = False
    hidden: int = 3

    def __post_init__(self) -> None:
        check_settings(self)


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
seen: list[tuple[dict[str, Any], int]] = []


@app.command()
@options_of(Settings)
def make(given: dict[str, Any], times: int = 1) -> None:
    """Make it."""
    Settings(**given)
    seen.append((given, times))


def run(*words: str) -> Any:
    seen.clear()
    return CliRunner().invoke(app, words)


def test_only_what_was_given_arrives() -> None:
    assert run("--out", "x").exit_code == 0
    assert seen == [({"out": "x"}, 1)]
    run("--out", "x", "--style", "a", "--style", "b", "--lambda", "0", "--fast", "--times", "2", "--size", "8")
    assert seen == [({"out": "x", "style": ("a", "b"), "weight": 0.0, "fast": True, "size": 8}, 2)]


def test_help_shows_defaults_and_ranges() -> None:
    text = " ".join(run("--help").output.split())
    for piece in ("[default: 0.5", "[default: jpg]", "[default: swirls]", "[8 to 64]", "[required]", "Make it."):
        assert piece in text
    assert "hidden" not in text
    assert "default: False" not in text


@pytest.mark.parametrize("words", [("--size", "7"), ("--alpha", "1.5"), ("--lambda", "-1.0")])
def test_the_command_line_refuses_what_is_out_of_range(words: tuple[str, ...]) -> None:
    result = run("--out", "x", *words)
    assert seen == []
    assert isinstance(result.exception, InputError)
    assert all(word in str(result.exception) for word in words)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"size": 65}, ["--size", "65", "8 to 64"]),
        ({"alpha": float("nan")}, ["--alpha", "nan"]),
        ({"weight": -0.5}, ["--lambda", "0 or more"]),
        ({"codec": "gif"}, ["--codec", "gif", "jpg, png"]),
    ],
)
def test_python_callers_meet_the_same_ranges(given: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Settings("x", **given)
    assert all(piece in str(caught.value) for piece in named)


def test_options_stand_where_the_command_takes_them() -> None:
    @options_of(Settings)
    def command(first: int, given: dict[str, Any], last: int) -> None:
        pass

    names = list(signature(command).parameters)
    assert (names[0], names[1], names[-1]) == ("first", "out", "last")


def test_a_required_option_is_asked_for() -> None:
    result = run()
    assert result.exit_code == 2
    assert "--out" in result.output
