"""Uploads to the Hugging Face Hub, against a fake of its API that fails at every point; reading from a fake server."""

import hashlib
import http.server
import inspect
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import fsspec
import pytest

from stylize.console import InputError
from stylize.shards import upload
from stylize.shards.card import CROISSANT_NAME, Facts, write_card
from stylize.shards.index import write_side_files
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from stylize.shards.remote import local_shards
from stylize.shards.upload import upload_shards
from stylize.shards.verify import verify_shards

hub = pytest.importorskip("huggingface_hub")
errors, hf_api = pytest.importorskip("huggingface_hub.errors"), pytest.importorskip("huggingface_hub.hf_api")
MakeShards = Callable[..., Path]
URL = "hf://datasets/team/cats"


def refused(status: int) -> Exception:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return errors.HfHubHTTPError(f"{status} of the fake", response=response)  # type: ignore[no-any-return]


@dataclass
class Hub:
    """One repository: its commits, each a set of files, and what happens at which call: an error before or after it."""

    commits: list[dict[str, bytes]] = field(default_factory=list)
    faults: dict[int, tuple[str, BaseException]] = field(default_factory=dict)
    calls: int = 0
    endpoint: str = "https://huggingface.co"

    def call(self, act: Callable[[], Any]) -> Any:
        when, error = self.faults.get(self.calls, ("", None))
        self.calls += 1
        if when == "before" and error:
            raise error
        result = act()
        if when == "after" and error:
            raise error
        return result

    def create_repo(self, name: str, *, repo_type: str, exist_ok: bool) -> None:
        assert (name, repo_type, exist_ok) == ("team/cats", "dataset", True)
        self.call(lambda: None if self.commits else self.commits.append({".gitattributes": b"*.tar filter=lfs"}))

    def repo_info(self, name: str, *, repo_type: str) -> Any:
        return self.call(lambda: SimpleNamespace(sha=str(len(self.commits))))

    def list_repo_tree(self, name: str, *, repo_type: str, recursive: bool, revision: str) -> Any:
        return self.call(lambda: [self.entry(*file) for file in self.commits[int(revision) - 1].items()])

    def entry(self, name: str, payload: bytes) -> Any:
        lfs = {"size": len(payload), "oid": hashlib.sha256(payload).hexdigest(), "pointerSize": 1}
        oid = hashlib.sha1(b"blob %d\0" % len(payload) + payload).hexdigest()
        held = {"path": name, "size": len(payload), "oid": oid}
        return hf_api.RepoFile(**held, lfs=lfs if name.endswith(".tar") else None)

    def create_commit(
        self, name: str, operations: Any, *, commit_message: str, repo_type: str, parent_commit: str
    ) -> Any:
        def act() -> Any:
            if parent_commit != str(len(self.commits)):
                raise refused(412)
            added = {operation.path_in_repo: Path(operation.path_or_fileobj).read_bytes() for operation in operations}
            assert not added.keys() & self.commits[-1].keys()  # nothing is overwritten
            self.commits.append(self.commits[-1] | added)
            return SimpleNamespace(oid=str(len(self.commits)))

        return self.call(act)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    for method in ("create_repo", "repo_info", "list_repo_tree", "create_commit"):
        names = inspect.signature(getattr(hub.HfApi, method)).parameters.keys() - {"self", "repo_id"}
        assert inspect.signature(getattr(fake, method)).parameters.keys() - {"name"} <= names
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(upload, "SHARDS_A_COMMIT", 2)
    return fake


@pytest.fixture
def folder(make_shard_folder: MakeShards) -> Path:
    made = make_shard_folder()  # five shards
    write_side_files(made, read_manifest(made), Facts("MIT"))
    return made


def check_complete(api: Hub, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    stored = dict(api.commits[-1])
    del stored[".gitattributes"]
    described = json.loads(stored.pop(CROISSANT_NAME))
    del files[CROISSANT_NAME]
    assert stored == files
    assert described["url"] == "https://huggingface.co/datasets/team/cats"
    urls = [file["contentUrl"] for file in described["distribution"] if "contentUrl" in file]
    assert urls == [f"{described['url']}/resolve/main/{shard.name}" for shard in read_manifest(folder).shards]


def test_shards_go_first_and_the_rest_in_one_last_commit(api: Hub, folder: Path) -> None:
    sizes: list[int] = []
    assert upload_shards(folder, URL, sizes.append) == read_manifest(folder)
    check_complete(api, folder)
    added = [[name for name in new if name not in old] for old, new in zip(api.commits, api.commits[1:], strict=False)]
    names = [shard.name for shard in read_manifest(folder).shards]
    assert added[:3] == [names[:2], names[2:4], names[4:]]
    assert {MANIFEST_NAME, "README.md", CROISSANT_NAME} < set(added[3])
    before = len(api.commits)
    upload_shards(folder, f"{URL}/")
    assert len(api.commits) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [ConnectionError("gone"), KeyboardInterrupt()])
def test_what_stops_it_at_any_point_is_made_good(api: Hub, folder: Path, when: str, error: BaseException) -> None:
    for point in range(7):  # three looks and four commits
        api.commits.clear()
        api.calls, api.faults = 0, {point: (when, error)}
        with pytest.raises(InputError if isinstance(error, Exception) else KeyboardInterrupt) as caught:
            upload_shards(folder, URL)
        if isinstance(error, Exception):
            assert "run the same command again" in str(caught.value)
        assert point == 6 or not api.commits or MANIFEST_NAME not in api.commits[-1]
        upload_shards(folder, URL)
        check_complete(api, folder)


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        (0, refused(401), "HF_TOKEN"),
        (0, errors.LocalTokenNotFoundError("none"), "HF_TOKEN"),
        (0, refused(403), "no write access"),
        (3, refused(403), "no write access"),
        (3, refused(412), "changed it meanwhile"),
        (4, refused(429), "in an hour"),
        (5, TimeoutError("read timed out"), "network"),
    ],
)
def test_refusals_are_one_sentence(api: Hub, folder: Path, point: int, error: Exception, message: str) -> None:
    api.faults = {point: ("before", error)}
    with pytest.raises(InputError, match=rf"^{URL} .*{message}[^\n]*\.$"):
        upload_shards(folder, URL)
    assert not api.commits or MANIFEST_NAME not in api.commits[-1]


def test_a_name_that_is_taken_is_refused_before_anything_is_sent(
    api: Hub, folder: Path, make_shard_folder: MakeShards
) -> None:
    other = make_shard_folder("other", seed=1)
    write_card(other, read_manifest(other))
    upload_shards(other, URL)
    sent = len(api.commits)
    with pytest.raises(InputError, match=rf"{URL}/.* differs"):
        upload_shards(folder, URL)
    api.commits.append({".gitattributes": b"", "data.csv": b"theirs"})
    with pytest.raises(InputError, match=r"another data set's, with data\.csv"):
        upload_shards(folder, URL)
    assert len(api.commits) == sent + 1


def test_mistakes(api: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("hf://team/cats", "hf://datasets/cats", "hf://datasets/team/cats/sub", "gs://bucket/cats"):
        with pytest.raises(InputError, match="hf://datasets/OWNER/NAME"):
            upload_shards(folder, url)
    (folder / "train-000002.tar").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"train-000002\.tar"):
        upload_shards(folder, URL)
    assert MANIFEST_NAME not in api.commits[-1]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"stylized-pairing\[hub\]"):
        upload_shards(folder, URL)


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the folder as the Hub does: what the repository is, its tree, and its files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, name = urlparse(self.path).path, self.path.rpartition("/")[2]
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "1"} for f in folder.iterdir()]
            if path == "/api/datasets/team/cats":
                status, answer = 200, json.dumps({"id": "team/cats", "sha": "0" * 40}).encode()
            elif path == "/api/datasets/team/cats/tree/main":
                status, answer = 200, json.dumps(tree).encode()
            elif path == f"/datasets/team/cats/resolve/main/{name}" and (folder / name).is_file():
                status, answer = 200, (folder / name).read_bytes()
            else:
                status, answer = 404, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
        yield
        server.shutdown()


@pytest.mark.usefixtures("served")
def test_shards_on_the_hub_are_verified_and_trained_from(folder: Path, tmp_path: Path) -> None:
    assert verify_shards(URL) == verify_shards(folder)
    with local_shards(URL, tmp_path / "cache") as copy:
        for path in read_manifest(folder).paths(copy, "train"):
            assert path.read_bytes() == (folder / path.name).read_bytes()
    (folder / "test-000001.tar").write_bytes(b"damaged")
    assert any(defect.startswith("test-000001.tar: ") for defect in verify_shards(URL))
    with pytest.raises(InputError, match="hf://datasets/team/dogs"):
        verify_shards("hf://datasets/team/dogs")
