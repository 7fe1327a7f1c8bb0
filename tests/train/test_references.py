from pathlib import Path

import pytest
from torch import nn

from stylize.console import InputError
from train.models import call_reference, is_reference

CODE = """
from torch import nn
def network(): return nn.Flatten()
def numbers(): return [1, 2]
def breaks(): return [][0]
def needs(): import a_package_that_nobody_has
def options(classes): return nn.Flatten()
answer = 42
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:function", True),
        ("module:function", True),
        ("runs/pairing/model.safetensors", False),
        ("runs/a:b/model.safetensors", False),
        ("C:\\models\\a.safetensors", False),
        ("module:", False),
        (":function", False),
        ("module:function()", False),
        ("module:os:system", False),
    ],
)
def test_what_is_a_reference(name: str, expected: bool) -> None:
    assert is_reference(name) is expected


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model:best").write_bytes(b"")
    assert not is_reference("model:best")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # restores the path afterwards
    Path("own_module_of_a_user.py").write_text(CODE)
    return "own_module_of_a_user"


def test_a_module_in_the_working_folder(own_module: str) -> None:
    assert isinstance(call_reference(f"{own_module}:network"), nn.Flatten)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package.models:network", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("own_module_of_a_user:netwrok", "has no function 'netwrok'"),
        ("own_module_of_a_user:answer", "has no function 'answer'"),
        ("own_module_of_a_user:numbers", "returned list: return a torch.nn.Module"),
        ("own_module_of_a_user:breaks", r"IndexError: list index out of range, .*own_module_of_a_user\.py:5"),
        ("own_module_of_a_user:needs", "No module named 'a_package_that_nobody_has'"),
        ("own_module_of_a_user:options", "missing 1 required positional argument: 'classes'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(own_module: str, reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call_reference(reference)
    assert "\n" not in str(caught.value)
