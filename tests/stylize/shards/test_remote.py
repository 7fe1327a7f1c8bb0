"""Shards in object stores and behind web servers, against a real S3 server and a real web server in this process."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from s3fs import S3FileSystem

from stylize.console import InputError
from stylize.shards.index import index_name, index_split, render_index
from stylize.shards.manifest import ShardEntry, read_manifest
from stylize.shards.remote import RemoteFolder, local_shards, upload_shards
from stylize.shards.side_files import write_side_files
from stylize.shards.verify import verify_shards, verify_url

ShardFolderMaker = Callable[..., Path]
URL = "s3://bucket/sets/shapes"
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve `tmp_path` over HTTP and return the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def check_keys_after(server: str, requests: int) -> None:
    """Let the server refuse unknown keys after so many requests."""
    headers = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server}/moto-api/reset-auth", str(requests).encode(), headers, method="POST")).close()


def versions(store: Any) -> list[str]:
    listed = store.list_object_versions(Bucket="bucket").get("Versions", [])
    return sorted(str(version["Key"]).removeprefix("sets/shapes/") for version in listed)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder but for the cache's own: its lock, and the tables of what it downloaded."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix not in ("", ".npy")}


def test_an_uploaded_folder_is_the_same_and_is_uploaded_once(
    store: Any, make_shard_folder: ShardFolderMaker, tmp_path: Path
) -> None:
    folder = make_shard_folder()
    sizes: list[int] = []
    with ThreadPoolExecutor(3) as threads:  # at once
        manifests = list(threads.map(lambda _: upload_shards(folder, URL), range(3)))
    assert upload_shards(folder, URL, sizes.append) == manifests[0] == read_manifest(folder)
    assert sizes == [shard.bytes for shard in manifests[0].shards]
    assert versions(store) == sorted(path.name for path in folder.iterdir())
    assert verify_url(URL) == (verify_shards(folder), read_manifest(folder))
    with local_shards(URL, tmp_path / "cache") as copy:
        assert contents(copy) == contents(folder)


def test_files_for_other_readers_are_uploaded_too(store: Any, make_shard_folder: ShardFolderMaker) -> None:
    folder = make_shard_folder()
    write_side_files(folder, read_manifest(folder))
    upload_shards(folder, URL)
    names = sorted(path.name for path in folder.iterdir())
    assert {"README.md", "train-000000.idx", "train-000000.tar"} < set(names)
    assert versions(store) == names


def test_the_store_refuses_what_is_there_already(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket="bucket", Key="sets/shapes/x", Body=b"first")
    (tmp_path / "x").write_bytes(b"second")
    with pytest.raises(FileExistsError):
        RemoteFolder(URL).files.put_file(str(tmp_path / "x"), "bucket/sets/shapes/x", mode="create")


def test_an_interrupted_upload_has_no_manifest_and_goes_on(store: Any, make_shard_folder: ShardFolderMaker) -> None:
    folder = make_shard_folder()
    damaged = folder / "test-000001.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match=r"test-000001.tar is missing or differs from its manifest: make it again"):
        upload_shards(folder, URL)
    assert not {"manifest.json", "test-000001.tar"} & set(versions(store))
    with pytest.raises(InputError, match=r"shapes/manifest.json is not there: check the bucket"):
        verify_url(URL)
    damaged.write_bytes(whole)
    upload_shards(folder, URL)
    assert versions(store) == sorted(path.name for path in folder.iterdir())


def test_other_shards_are_never_overwritten(store: Any, make_shard_folder: ShardFolderMaker) -> None:
    upload_shards(make_shard_folder("one"), URL)
    before = versions(store)
    with pytest.raises(InputError, match=r"manifest.json is there and differs: give another folder, or remove it"):
        upload_shards(make_shard_folder("two", seed=1), URL)
    store.put_object(Bucket="bucket", Key="other/train-000001.tar", Body=b"a stranger's")
    with pytest.raises(InputError, match=r"train-000001.tar is there and differs"):
        upload_shards(make_shard_folder("three"), "s3://bucket/other")
    assert [name for name in versions(store) if not name.startswith("other")] == before
    assert store.get_object(Bucket="bucket", Key="other/train-000001.tar")["Body"].read() == b"a stranger's"


def test_a_store_that_cannot_be_used_is_named(
    store: Any, server: str, make_shard_folder: ShardFolderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_shard_folder()
    with pytest.raises(InputError, match=r"is not there: check the bucket"):
        upload_shards(folder, "s3://nowhere/sets")
    with pytest.raises(InputError, match=r"is not s3://bucket/folder: copy the folder with another tool"):
        upload_shards(folder, "gs://bucket/sets")
    check_keys_after(server, 0)
    try:
        with pytest.raises(InputError, match=r"is refused \(PermissionError: .*check the credentials"):
            upload_shards(folder, URL)
    finally:
        check_keys_after(server, 1_000_000)
    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"cannot be used \(NoCredentialsError: .*credentials"):
        upload_shards(folder, URL)


def test_a_damaged_object_is_named_and_never_used(
    store: Any, make_shard_folder: ShardFolderMaker, tmp_path: Path
) -> None:
    folder = make_shard_folder()
    upload_shards(folder, URL)
    payload = bytearray((folder / "train-000001.tar").read_bytes())
    payload[600] ^= 1
    store.put_object(Bucket="bucket", Key="sets/shapes/train-000001.tar", Body=bytes(payload))
    store.delete_object(Bucket="bucket", Key="sets/shapes/test-000000.tar")
    defects, _ = verify_url(URL)
    assert "train-000001.tar: SHA-256 differs from the manifest's" in defects
    assert any(defect.startswith("test-000000.tar: cannot be read") for defect in defects)
    with (
        pytest.raises(InputError, match=r"train-000001.tar differs from its manifest: upload it again"),
        local_shards(URL, tmp_path / "cache"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.glob("cache/*/*")) == ["lock", "manifest.json", "train-000000.tar"]


def test_the_cache_is_bounded_and_spares_what_is_used(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, web: str
) -> None:
    one, two, three = (make_shard_folder(name, seed=seed) for seed, name in enumerate(("one", "two", "three")))
    cache, gigabytes = tmp_path / "cache", 2.5 * sum(shard.bytes for shard in read_manifest(one).shards) / 1e9
    downloaded: list[ShardEntry] = []
    use = partial(local_shards, cache=cache, gigabytes=gigabytes, report=downloaded.append)
    with use(f"{web}/one") as copy:
        assert contents(copy) == contents(one)
        table = render_index(index_split(one, read_manifest(one), "train"))
        assert (copy / index_name("train")).read_bytes() == table
        for _ in range(2):
            with use(f"{web}/two"):
                pass
        assert len(downloaded) == 2 * len(read_manifest(one).shards)
        with use(f"{web}/three") as third:  # makes room by the second, because the first is in use
            kept = {hashlib.sha256((path / "manifest.json").read_bytes()).digest() for path in cache.iterdir()}
            assert kept == {hashlib.sha256((path / "manifest.json").read_bytes()).digest() for path in (one, three)}
        assert contents(third) == contents(three)
    with pytest.raises(InputError, match=r"raise --cache-gb"), local_shards(f"{web}/two", cache, gigabytes / 5):
        pass
    assert two.exists()


def test_a_path_stays_a_path_and_odd_urls_are_refused(tmp_path: Path) -> None:
    with local_shards(str(tmp_path)) as folder:
        assert folder == tmp_path
    for url, reason in (("nothing://x/y", "cannot be opened"), ("http://127.0.0.1:1/x", "cannot be used")):
        with pytest.raises(InputError, match=reason), local_shards(url, tmp_path / "cache"):
            pass


def test_parts_of_files(store: Any, make_shard_folder: ShardFolderMaker, web: str) -> None:
    folder = make_shard_folder()
    upload_shards(folder, URL)
    names = ["train-000000.tar", "train-000001.tar"]
    one, two = ((folder / name).read_bytes() for name in names)
    assert RemoteFolder(URL).read_parts(names, [0, 512], [100, 700]) == [one[:100], two[512:700]]
    with pytest.raises(InputError, match=r"does not send parts of files"):  # a web server that sends whole files
        RemoteFolder(f"{web}/shards").read_parts(names, [0, 512], [100, 700])
