"""Shards in object stores and behind web servers, against a real S3 server and a real web server in this process."""

import fcntl
import hashlib
import http.server
import os
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
from stylize.shards.index import index_name, index_split, render_index, write_side_files
from stylize.shards.manifest import Manifest, ShardEntry, read_manifest
from stylize.shards.remote import RemoteFolder, local_shards
from stylize.shards.upload import upload_shards
from stylize.shards.verify import verify_shards

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
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
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
    assert verify_shards(URL) == verify_shards(folder)
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
    with pytest.raises(InputError, match=r"test-000001\.tar .*differs"):
        upload_shards(folder, URL)
    assert not {"manifest.json", "test-000001.tar"} & set(versions(store))
    with pytest.raises(InputError, match=r"shapes/manifest\.json is not there"):
        verify_shards(URL)
    damaged.write_bytes(whole)
    upload_shards(folder, URL)
    assert versions(store) == sorted(path.name for path in folder.iterdir())


def test_other_shards_are_never_overwritten(store: Any, make_shard_folder: ShardFolderMaker) -> None:
    upload_shards(make_shard_folder("one"), URL)
    before = versions(store)
    with pytest.raises(InputError, match=r"manifest\.json is there and differs"):
        upload_shards(make_shard_folder("two", seed=1), URL)
    store.put_object(Bucket="bucket", Key="other/train-000001.tar", Body=b"a stranger's")
    with pytest.raises(InputError, match=r"train-000001.tar is there and differs"):
        upload_shards(make_shard_folder("three"), "s3://bucket/other")
    assert [name for name in versions(store) if not name.startswith("other")] == before
    assert store.get_object(Bucket="bucket", Key="other/train-000001.tar")["Body"].read() == b"a stranger's"


def damage(store: Any, name: str, change: Callable[[bytes], bytes], keep_metadata: bool = True) -> None:
    key = f"sets/shapes/{name}"
    held = store.get_object(Bucket="bucket", Key=key)
    metadata = held["Metadata"] if keep_metadata else {}
    store.put_object(Bucket="bucket", Key=key, Body=change(held["Body"].read()), Metadata=metadata)


def test_what_the_store_has_damaged_is_uploaded_again(store: Any, make_shard_folder: ShardFolderMaker) -> None:
    folder = make_shard_folder()
    upload_shards(folder, URL)
    damage(store, "train-000000.tar", lambda payload: payload[:-1000])
    damage(store, "train-000001.tar", lambda payload: payload[:-1] + b"x")
    damage(store, "test-000000.tar", lambda payload: payload, keep_metadata=False)  # as another tool copies it
    damage(store, "manifest.json", lambda payload: payload[:-1])
    upload_shards(folder, URL)
    assert verify_shards(URL) == verify_shards(folder)
    names = versions(store)
    assert {name: names.count(name) for name in ("train-000000.tar", "train-000001.tar", "test-000000.tar")} == {
        "train-000000.tar": 3, "train-000001.tar": 3, "test-000000.tar": 2,
    }  # fmt: skip
    damage(store, "train-000001.tar", lambda payload: payload[:-1] + b"x", keep_metadata=False)  # may be anybody's
    with pytest.raises(InputError, match=r"train-000001.tar is there and differs"):
        upload_shards(folder, URL)


def test_a_store_that_cannot_be_used_is_named(
    store: Any, server: str, make_shard_folder: ShardFolderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_shard_folder()
    with pytest.raises(InputError, match=r"s3://nowhere/sets is not there") as caught:
        upload_shards(folder, "s3://nowhere/sets")
    assert ".tar" not in str(caught.value)
    with pytest.raises(InputError, match=r"s3://bucket/folder"):
        upload_shards(folder, "gs://bucket/sets")
    check_keys_after(server, 0)
    try:
        with pytest.raises(InputError, match=r"PermissionError.*credentials"):
            upload_shards(folder, URL)
    finally:
        check_keys_after(server, 1_000_000)
    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"NoCredentialsError"):
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
    defects = verify_shards(URL)
    assert "train-000001.tar: SHA-256 differs from the manifest's" in defects
    assert any(defect.startswith("test-000000.tar: cannot be read") for defect in defects)
    with (
        pytest.raises(InputError, match=r"train-000001\.tar .*upload it again"),
        local_shards(URL, tmp_path / "cache"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.glob("cache/*/*")) == ["lock", "manifest.json", "train-000000.tar"]


def test_commands_read_a_url(
    make_shard_folder: ShardFolderMaker, run: Callable[..., tuple[int, str, str]], tmp_path: Path, web: str
) -> None:
    folder = make_shard_folder()
    assert run("info", f"{web}/shards")[1].replace(f"{web}/shards", str(folder)) == run("info", str(folder))[1]
    for source, out in ((str(folder), "here"), (f"{web}/shards", "there")):
        assert run("unpack", source, "--out", str(tmp_path / out))[0] == 0
        assert run("preview", "--shards", source, "-o", str(tmp_path / out / "sheet.png"))[0] == 0
    here, there = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "here", tmp_path / "there")
    )
    assert here == there
    assert len(here) > 60
    code, _, error = run("info", f"{web}/absent")
    assert (code, "absent/manifest.json" in error) == (2, True)


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
    with pytest.raises(InputError, match=r"raise --cache-gb"), local_shards(f"{web}/two", cache, gigabytes / 50):
        pass
    assert two.exists()


def test_nobody_is_asked_what_is_needed_where_everything_fits(
    make_shard_folder: ShardFolderMaker, tmp_path: Path
) -> None:
    folder = make_shard_folder()

    def needed(manifest: Manifest) -> set[str]:
        raise InputError("One shard cannot be split.")

    with local_shards(folder.as_uri(), tmp_path / "cache", needed=needed) as copy:
        assert contents(copy) == contents(folder)
    with (
        pytest.raises(InputError, match="One shard"),
        local_shards(folder.as_uri(), tmp_path / "o", 1e-9, needed=needed),
    ):
        pass


def test_a_copy_is_shared_while_it_is_used(make_shard_folder: ShardFolderMaker, tmp_path: Path, web: str) -> None:
    folder, cache = make_shard_folder(), tmp_path / "cache"
    tests = [shard for shard in read_manifest(folder).shards if shard.split == "test"]
    small = sum(shard.bytes for shard in tests) / 1e9

    def use(gigabytes: float) -> set[str]:
        with local_shards(f"{web}/shards", cache, gigabytes) as copy:
            return {path.name for path in copy.glob("*.tar")}

    with ThreadPoolExecutor(1) as threads, local_shards(f"{web}/shards", cache) as copy:
        everything = {shard.name for shard in read_manifest(folder).shards}
        for gigabytes in (200.0, small):  # the smaller one removes nothing that is in use
            assert threads.submit(use, gigabytes).result(timeout=60) == everything
        assert {path.name for path in copy.glob("*.tar")} == everything
    assert use(small) == {shard.name for shard in tests}


def test_who_waits_for_a_download_says_so(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shard_folder()
    with local_shards(f"{web}/shards", tmp_path / "cache") as copy:
        pass

    def use() -> bool:
        with local_shards(f"{web}/shards", tmp_path / "cache") as again:
            return again == copy

    other = os.open(copy, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(use)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
            fcntl.flock(other, fcntl.LOCK_UN)
            assert waiting.result(timeout=60)
    finally:
        os.close(other)
    assert "another process" in capsys.readouterr().out


def test_a_path_stays_a_path_and_odd_urls_are_refused(tmp_path: Path) -> None:
    with local_shards(str(tmp_path)) as folder:
        assert folder == tmp_path
    for url, reason in (("nothing://x/y", "cannot be opened"), ("http://127.0.0.1:1/x", "cannot be used")):
        with pytest.raises(InputError, match=reason), local_shards(url, tmp_path / "cache"):
            pass
