"""Code of the user's own, named as `package.module:name`: imported, and its errors told in a sentence."""

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stylize.console import InputError


def is_reference(name: str) -> bool:
    """Tell whether a name is `package.module:name` and not a file's."""
    module, _, function = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), function)) and not Path(name).exists()


def load_reference(reference: str, kind: str) -> Any:
    """Import `package.module` (installed, or in the working folder) and return what it calls `name`.

    Raises `InputError`, whose sentence begins with `kind`, where importing fails or there is nothing of that name.
    """
    module_name, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that a file there never stands in for an installed package
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # whatever their code does
        raise InputError(f"{kind} {reference} cannot be imported ({reason_of(error)}): mend or install it.") from error
    if not callable(found):
        raise InputError(f"{kind} {reference}: {module_name} has no function {name!r}: give the name of one.")
    return found


def code_files(modules: Iterable[str]) -> Iterator[Path]:
    """Yield the files of imported modules in the order of their names, but for PyTorch's, whose version is recorded."""
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not name.startswith("torch."):
            yield Path(file)


def reason_of(error: BaseException) -> str:
    """Return an error's type, text and place in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())}, {where.filename}:{where.lineno}"
