"""What the documents promise: links lead somewhere, and the Python examples run."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


def test_the_array_example_runs() -> None:
    *_, example = PYTHON.findall((PROJECT / "docs" / "python.md").read_text())
    names: dict[str, object] = {}
    exec(example, names)
    assert getattr(names["stylized"], "shape", None) == (2, 64, 64, 3)


def test_the_pipeline_example_imports_and_defines_main() -> None:
    first, *_ = PYTHON.findall((PROJECT / "docs" / "python.md").read_text())
    names: dict[str, object] = {"__name__": "example"}
    exec(first, names)
    assert callable(names["main"])
