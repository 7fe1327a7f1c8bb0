"""The data card and `croissant.json`, read by `mlcroissant` as a stranger would."""

import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.console import InputError
from stylize.shards import image_roles, read_shard
from stylize.shards.card import CARD_NAME, CROISSANT_NAME, Facts, read_facts, write_card
from stylize.shards.index import write_side_files
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import quick_defects

MakeShards = Callable[..., Path]
FACTS = Facts("cc-by-4.0", 'Cats: "and" dogs', "https://example.org/cats", "@misc{cats, year = 2020}")
# In a process of its own: the library reads where its cache is when it is imported, and its own libraries warn.
READ = """
import hashlib, json, sys
import mlcroissant
found = []
for description in sys.argv[1:]:
    data = mlcroissant.Dataset(description)
    sets = {"errors": list(data.metadata.ctx.issues.errors), "classes": list(data.records("classes"))}
    for name in (kept.id for kept in data.metadata.record_sets if kept.id != "classes"):
        role = name.partition("-")[2]
        rows = [(row[f"{name}/key"].decode(), row[f"{name}/{role}"]) for row in data.records(name)]
        digest = lambda value: value if role == "cls" else hashlib.sha256(value.fp.getvalue()).hexdigest()
        sets[name] = [(key, digest(value)) for key, value in rows]
    found.append(sets)
print(json.dumps(found))
"""


def head(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / CARD_NAME).read_text().split("---\n", 2)[1])
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_croissant_gives_pairs_back_from_disk_and_from_a_url(
    make_shard_folder: MakeShards, tmp_path: Path, served: str
) -> None:
    pytest.importorskip("mlcroissant")
    folders = [make_shard_folder("one"), make_shard_folder("two", styles_per_image=2, seed=1)]
    for folder, url in zip(folders, ("", f"{served}/two"), strict=True):
        write_card(folder, read_manifest(folder), Facts("MIT", url=url))
    descriptions = [str(folders[0] / CROISSANT_NAME), f"{served}/two/{CROISSANT_NAME}"]
    environment = {"CROISSANT_CACHE": str(tmp_path / "cache"), "PATH": "", "NO_PROXY": "*"}
    command = [sys.executable, "-W", "ignore", "-c", READ, *descriptions]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for folder, found in zip(folders, json.loads(done.stdout.splitlines()[-1]), strict=True):
        manifest = read_manifest(folder)
        assert found.pop("errors") == []
        assert [row["classes/name"] for row in found.pop("classes")] == manifest.class_names
        expected: dict[str, list[list[object]]] = {}
        for split in ("train", "test"):
            ours = [sample for path in manifest.paths(folder, split) for sample in read_shard(path)]
            for k, role in enumerate(image_roles(manifest.copies(split))):
                expected[f"{split}-{role}"] = [[s.key, hashlib.sha256(s.images[k]).hexdigest()] for s in ours]
            expected[f"{split}-cls"] = [[sample.key, sample.label] for sample in ours]
        assert {name: sorted(rows) for name, rows in found.items()} == expected
        keys = {name: [key for key, _ in rows] for name, rows in found.items()}
        assert all(keys[name] == keys[f"{name.partition('-')[0]}-cls"] for name in keys)


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
    manifest = read_manifest(folder)
    write_side_files(folder, manifest)
    assert read_facts(folder) == FACTS
    write_card(folder, replace(manifest, spec={**manifest.spec, "stylizer": {"name": "own", "version": "1"}}), FACTS)
    assert read_facts(folder) == FACTS
    assert "huang2017" not in (folder / CARD_NAME).read_text()


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
