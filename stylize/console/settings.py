"""One declaration a setting: a field of a settings dataclass is the command's option, its default, help and range.

@dataclass(frozen=True)
class Settings:
    size: Annotated[int, typer.Option(min=8, help="Side in pixels.")] = 64
    codec: Annotated[str, OneOf("jpg", "png"), typer.Option(help="Of copies.")] = "jpg"

@app.command()
@options_of(Settings)
def make(given: dict[str, Any], out: Path) -> None:
    settings = Settings(**given)
    check_settings(settings)
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, fields
from fractions import Fraction
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from stylize.console import InputError, option_name


class OneOf:
    """The texts that a setting may be, beside None where its type admits that."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices


def options_of(settings: type, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: each annotated field of a settings dataclass, or of some by name, becomes an option of it.

    In their place the command has a parameter `given`, the options that were given, {field: value}; what was not given
    is left to the dataclass, or to a preset.  A field of type tuple[T, ...] is an option that may be repeated.
    """
    every = {field.name: _parameter(field, option) for field, option in _options(settings)}
    annotated = {name: every[name] for name in names or every}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in own].index("given")

        @wraps(command)
        def run(**values: Any) -> None:
            options = {name: values.pop(name) for name in annotated}
            given = {name: value for name, value in options.items() if value not in (None, [])}
            tuples = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
            command(given=given | tuples, **values)

        own[place : place + 1] = annotated.values()
        parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def check_settings(settings: Any) -> None:
    """Raise `InputError` where a field is outside its option's `min` and `max`, or none of its choices."""
    for field, option in _options(type(settings)):
        value = getattr(settings, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                _check(field, option, one)


def parse_epsilon(text: str) -> float:
    """Read a radius in pixels of [0, 1], `8/255` or `0.03`; raise `InputError` for anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"--epsilon is {text!r}: give a number or a fraction such as 8/255.") from None


def _check(field: Field[Any], option: OptionInfo, value: Any) -> None:
    given_names = (option.default, *(option.param_decls or ()))  # in `Annotated`, Typer takes the first for a default
    name = next((name for name in given_names if str(name).startswith("--")), option_name(field.name))
    choices = next((mark.choices for mark in _marks(field) if isinstance(mark, OneOf)), None)
    if choices is not None and value not in choices:
        raise InputError(f"{name} is {value!r}: choose one of {', '.join(choices)}.")
    low, high = option.min, option.max
    if (low is not None and not value >= low) or (high is not None and not value <= high):  # not NaN either
        raise InputError(f"{name} is {value!r}: give {_range(option)}.")


def _range(option: OptionInfo) -> str:
    """Return what values an option takes; nothing where there is no limit."""
    low, high = option.min, option.max
    if high is None:
        return "" if low is None else f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"


def _options(settings: type) -> Iterator[tuple[Field[Any], OptionInfo]]:
    hints = get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        field.type = hints[field.name]
        for mark in _marks(field):
            if isinstance(mark, OptionInfo):
                yield field, mark


def _marks(field: Field[Any]) -> tuple[Any, ...]:
    return get_args(field.type)[1:] if get_origin(field.type) is Annotated else ()


def _parameter(field: Field[Any], option: OptionInfo) -> Parameter:
    """Return the option of a field: optional where the dataclass has a default, which the help shows like its range.

    The dataclass checks the range, since Typer's message does not say what was given.
    """
    kind = get_args(field.type)[0]
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    notes = [_range(option)]
    if field.default not in (MISSING, None, False, ()) and option.show_default:
        default = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        notes.append(f"default: {default}")
    option = copy(option)
    option.help = " ".join([option.help or "", *(f"[{note}]" for note in notes if note)]).strip()
    option.min = option.max = None
    if field.default is MISSING:
        return Parameter(field.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
