"""Models of the user's own, named as `package.module:function`; only such a name makes this program run their code."""

import importlib
import sys
import traceback
from pathlib import Path

from torch import nn

from stylize.errors import InputError


def is_reference(name: str) -> bool:
    """Tell whether a name is `package.module:function` and not a file's."""
    module, _, function = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), function)) and not Path(name).exists()


def refuse_foreign(reference: str, path: Path) -> None:
    """Raise `InputError` unless the module lies in the working folder: a model file must not choose what else runs."""
    package = reference.partition(":")[0].partition(".")[0]
    here = Path.cwd()
    if not any((here / name).exists() for name in (package, f"{package}.py")):
        raise InputError(f"{path} was made by the code {reference}, which is not in {here}: run this where it is.")


def call_reference(reference: str, *arguments: int) -> nn.Module:
    """Import `package.module` (installed, or in the working folder), call its function and return the model it makes.

    Raises `InputError` where there is no such module or function, or the call fails or returns no `nn.Module`.
    """
    module_name, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that a file there never stands in for an installed package
    try:
        function = getattr(importlib.import_module(module_name), name, None)
        if not callable(function):
            raise InputError(f"Model {reference}: {module_name} has no function {name!r}: give the name of one.")
        model = function(*arguments)
    except InputError:
        raise
    except Exception as error:  # whatever their code does, they learn it in a sentence
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error}, {where.filename}:{where.lineno}"
        raise InputError(f"Model {reference} cannot be made ({reason}): mend it, or install what it needs.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"Model {reference} returned {type(model).__name__}: return a torch.nn.Module.")
    return model
