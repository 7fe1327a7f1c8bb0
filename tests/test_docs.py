"""What the documents promise: links lead somewhere, and the Python examples run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attack import AttackConfig, attack_model
from stylize.shards import read_shard, sample_members
from stylize.shards.manifest import read_manifest
from stylize.sources.patterns import PATTERN_NAMES
from train import build_model

PROJECT = Path(__file__).parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_merge_is_left_unfinished(document: Path) -> None:
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", document.read_text(), re.MULTILINE)


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in PYTHON.findall((PROJECT / "docs" / "python.md").read_text()):
        exec(example, names)
    assert names["stylized"].shape == (2, 64, 64, 3)
    assert names["originals"].shape == names["copies"].shape
    assert names["copies"].shape[1:] == (3, 32, 32)
    assert 0 <= names["robust"] <= 1
    assert (tmp_path / "report" / "index.html").is_file()


def test_the_evaluation_example_reads_a_result(make_shard_folder: Callable[..., Path], tmp_path: Path) -> None:
    example = PYTHON.findall((PROJECT / "docs" / "evaluation.md").read_text())[-1]
    names: dict[str, Any] = {}
    exec(example, names)
    folder, result = make_shard_folder(), tmp_path / "result.json"
    model = build_model("small", len(read_manifest(folder).class_names)).eval()
    attack_model(model, folder, result, AttackConfig(suite="paper", images=6, steps=2))
    clean = json.loads(result.read_text())["images"]["correct"]
    assert names["robust_accuracy"](result, 8 / 255).startswith(f"{sum(clean) / len(clean):.1%}".replace("%", " %"))


def test_the_readme_names_every_built_in_style() -> None:
    assert ", ".join(PATTERN_NAMES) in " ".join((PROJECT / "README.md").read_text().split())


def test_the_reader_in_the_format_reads_what_ours_reads(make_shard_folder: Callable[..., Path]) -> None:
    *_, example = PYTHON.findall((PROJECT / "docs" / "shard-format.md").read_text())
    names: dict[str, Any] = {}
    exec(example, names)
    folder = make_shard_folder(styles_per_image=2)
    for split in ("train", "test"):
        ours = [sample for path in read_manifest(folder).paths(folder, split) for sample in read_shard(path)]
        for sample, found in zip(ours, names["read_samples"](folder, split), strict=True):
            expected = {name.split(".", 1)[1]: payload for name, payload in sample_members(sample, "png")}
            assert found == expected


def test_the_architecture_names_files_that_exist() -> None:
    named = re.findall(r"`((?:stylize|train|attack)/[\w/]+\.py)`", (PROJECT / "docs" / "architecture.md").read_text())
    assert [path for path in named if not (PROJECT / path).is_file()] == []
