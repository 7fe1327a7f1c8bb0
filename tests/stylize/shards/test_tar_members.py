"""The fast reader of tar headers beside Python's own, on whole, damaged and foreign tars."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from stylize.shards.shard import Sample, tar_members, write_shard

Listed = list[tuple[str, tuple[int, int] | None]]
BLOCK = tarfile.BLOCKSIZE


def by_tarfile(path: Path) -> Iterable[tuple[str, tuple[int, int] | None]]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield member.name, (member.offset_data, member.size) if member.isreg() and member.size >= 0 else None


def by_us(path: Path) -> Iterable[tuple[str, tuple[int, int] | None]]:
    return ((name, (span.offset, span.size) if span else None) for name, span in tar_members(path))


def listed(members: Iterable[tuple[str, tuple[int, int] | None]]) -> tuple[Listed, str | None]:
    """Return what a reader yields, and the error that ends it."""
    found: Listed = []
    try:
        for member in members:
            found.append(member)
    except (tarfile.TarError, OSError, ValueError) as error:
        return found, type(error).__name__
    return found, None


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-000000.tar"
    write_shard(path, (Sample(f"{index:08d}", b"c" * 700, (b"s" * 512,), 1, {"a": index}) for index in range(2)))
    return path


def test_a_shard_is_listed_as_by_tarfile_but_without_it(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, error = listed(by_us(shard))
    assert (found, error) == listed(by_tarfile(shard))
    assert len(found) == 8

    def see_the_end(*_arguments: object) -> tarfile.TarInfo:
        raise tarfile.EOFHeaderError("the end")  # type: ignore[attr-defined]

    monkeypatch.setattr(tarfile.TarInfo, "frombuf", see_the_end)
    assert listed(by_us(shard)) == (found, None)


def test_a_cut_shard_is_listed_as_by_tarfile(shard: Path) -> None:
    whole, cut = shard.read_bytes(), shard.with_name("cut.tar")
    ends = {end + near for end in range(0, len(whole), BLOCK) for near in (0, 1, 200)}
    for end in ends:
        cut.write_bytes(whole[:end])
        assert listed(by_us(cut)) == listed(by_tarfile(cut)), end


def test_a_damaged_header_is_read_as_by_tarfile(shard: Path) -> None:
    whole, damaged = shard.read_bytes(), shard.with_name("damaged.tar")
    for header in (0, 3 * BLOCK):  # of the first member, and of the second
        for place in (*range(0, 165, 3), 257, 345, 400, BLOCK - 1):
            for value in (b"\0", b"7", b"\xff"):
                start = header + place
                damaged.write_bytes(whole[:start] + value + whole[start + 1 :])
                assert listed(by_us(damaged)) == listed(by_tarfile(damaged)), (start, value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (124, b"-0000001000\0"),
        (124, b"00000000001 "),
        (0, b"00000000.cls\0x"),
        (0, b"\xc3\xa4"),
        (156, b"5"),
        (257, b"x"),
    ],
)
def test_a_whole_header_with_other_fields_is_read_as_by_tarfile(shard: Path, place: int, value: bytes) -> None:
    block = bytearray(shard.read_bytes())
    block[place : place + len(value)], block[148:156] = value, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    shard.write_bytes(block)
    assert listed(by_us(shard)) == listed(by_tarfile(shard))


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_foreign_tar_is_listed_as_by_tarfile(tmp_path: Path, shard: Path, layout: int) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    foreign = io.BytesIO()
    with tarfile.open(fileobj=foreign, mode="w", format=layout) as tar:
        for member in (tarfile.TarInfo("00000003.cls"), link, tarfile.TarInfo("d" * 90 + "/" + "n" * 90)):
            tar.addfile(member)
    own = shard.read_bytes()[: 3 * BLOCK]  # one member, its payload of two blocks
    for name, payload in (("foreign.tar", foreign.getvalue()), ("mixed.tar", own + foreign.getvalue())):
        (tmp_path / name).write_bytes(payload)
        found, error = listed(by_us(tmp_path / name))
        assert (found, error) == listed(by_tarfile(tmp_path / name))
        assert ("link", None) in found


def test_what_is_no_tar_is_the_same_error(tmp_path: Path) -> None:
    for payload in (b"", b"no tar", bytes(100), bytes(BLOCK), b"x" * 2000):
        path = tmp_path / "x.tar"
        path.write_bytes(payload)
        assert listed(by_us(path)) == listed(by_tarfile(path)), payload[:10]
