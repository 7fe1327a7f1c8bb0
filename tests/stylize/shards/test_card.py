"""The data card and `croissant.json`, read by `mlcroissant` as a stranger would."""

import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.console import InputError
from stylize.shards.card import CARD_NAME, CROISSANT_NAME, Facts, read_facts, write_card
from stylize.shards.index import write_side_files
from stylize.shards.manifest import read_manifest
from stylize.shards.shard import read_shard
from stylize.shards.verify import quick_defects

MakeShards = Callable[..., Path]
FACTS = Facts("cc-by-4.0", 'Cats: "and" dogs', "https://example.org/cats", "@misc{cats, year = 2020}")
# In a process of its own: the library reads where its cache is when it is imported, and its own libraries warn.
READ = """
import hashlib, json, sys
import mlcroissant
data = mlcroissant.Dataset(sys.argv[1])
found = {"classes": list(data.records("classes"))}
for name in sys.argv[2:]:
    role = name.partition("-")[2]
    rows = [(row[f"{name}/key"].decode(), row[f"{name}/{role}"]) for row in data.records(name)]
    digest = lambda value: value if role == "cls" else hashlib.sha256(value.fp.getvalue()).hexdigest()
    found[name] = [(key, digest(value)) for key, value in rows]
print(json.dumps({"errors": list(data.metadata.ctx.issues.errors), "found": found}))
"""


def head(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / CARD_NAME).read_text().split("---\n", 2)[1])
    return found


def read_by_mlcroissant(description: str, roles: list[str], cache: Path) -> dict[str, Any]:
    environment = {"CROISSANT_CACHE": str(cache), "PATH": "", "NO_PROXY": "*"}
    command = [sys.executable, "-W", "ignore", "-c", READ, description, *roles]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["errors"] == []
    found: dict[str, Any] = result["found"]
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("copies", [1, 2])
def test_croissant_gives_pairs_back(make_shard_folder: MakeShards, tmp_path: Path, served: str, copies: int) -> None:
    pytest.importorskip("mlcroissant")
    folder = make_shard_folder(styles_per_image=copies)
    manifest = read_manifest(folder)
    styled = ["styled"] if copies == 1 else ["styled0", "styled1"]
    roles = {"train": ["content", *styled, "cls"], "test": ["content", "cls"]}
    url = f"{served}/{folder.name}" if copies == 2 else ""  # the other is read from the disk
    write_card(folder, manifest, Facts("MIT", url=url))
    description = f"{url}/{CROISSANT_NAME}" if url else str(folder / CROISSANT_NAME)
    found = read_by_mlcroissant(description, [f"{s}-{role}" for s in roles for role in roles[s]], tmp_path / "cache")
    assert [row["classes/name"] for row in found["classes"]] == manifest.class_names
    for split in roles:
        ours = [sample for path in manifest.paths(folder, split) for sample in read_shard(path)]
        for k, role in enumerate(roles[split]):
            digests = [s.label if role == "cls" else hashlib.sha256(s.images[k]).hexdigest() for s in ours]
            assert sorted(found[f"{split}-{role}"]) == [[s.key, d] for s, d in zip(ours, digests, strict=True)]


def test_the_facts_stand_in_card_and_description(make_shard_folder: MakeShards) -> None:
    folder = make_shard_folder()
    write_side_files(folder, read_manifest(folder), FACTS)
    assert (head(folder)["license"], head(folder)["pretty_name"]) == ("cc-by-4.0", 'Cats: "and" dogs')
    text, description = (folder / CARD_NAME).read_text(), json.loads((folder / CROISSANT_NAME).read_text())
    for name in ("https://example.org/cats", "@misc{cats", "guan2022", "huang2017", "CC-BY-4.0"):
        assert name in text
    assert description["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    wanted = "dataLimitations dataBiases personalSensitiveInformation dataUseCases dataSocialImpact hasSyntheticData"
    assert {f"rai:{name}" for name in wanted.split()} < description.keys()
    assert description["prov:wasDerivedFrom"] == "https://example.org/cats"
    assert read_facts(folder) == FACTS
    assert quick_defects(folder) == []
    write_side_files(folder, read_manifest(folder))
    assert read_facts(folder) == FACTS


@pytest.mark.parametrize(
    ("licence", "hub"), [("GPL-3.0-only", "gpl-3.0"), ("MIT OR Apache-2.0", "other"), ("LicenseRef-ImageNet", "other")]
)
def test_licences_that_the_hub_calls_otherwise(make_shard_folder: MakeShards, licence: str, hub: str) -> None:
    folder = make_shard_folder()
    write_card(folder, read_manifest(folder), Facts(licence))
    assert head(folder)["license"] == hub
    assert read_facts(folder).licence == licence


def test_a_licence_is_never_guessed(make_shard_folder: MakeShards) -> None:
    folder = make_shard_folder()
    write_card(folder, read_manifest(folder))
    assert "license" not in head(folder)
    assert "license" not in json.loads((folder / CROISSANT_NAME).read_text())
    assert "not stated" in (folder / CARD_NAME).read_text()
    with pytest.raises(InputError, match="--licence is 'free'"):
        Facts("free")
    for damaged in ("", "[]", '{"distribution": []}', '{"distribution": [], "license": "as you like"}'):
        (folder / CROISSANT_NAME).write_text(damaged)
        assert read_facts(folder) == Facts()
