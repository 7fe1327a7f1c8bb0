import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.files import file_sha256
from stylize.shards import Sample, read_shard, sample_members, tar_members, write_shard

BLOCK = 512


def make_sample(index: int, copies: int = 1) -> Sample:
    styled = tuple(f"copy {k} of {index}".encode() for k in range(copies))
    return Sample(f"{index:08d}", b"content %d" % index, styled, index % 3, {"source": f"häuser/{index}.jpg"})


def members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def write_tar(path: Path, entries: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in entries:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(payload)
            tar.addfile(header, io.BytesIO(payload))
    return path


def entries(key: str = "00000000") -> list[tuple[str | tarfile.TarInfo, bytes]]:
    parts = (("content.jpg", b"c"), ("styled.jpg", b"s"), ("cls", b"1"), ("json", b"{}"))
    return [(f"{key}.{name}", payload) for name, payload in parts]


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "/etc/passwd"
    return header


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-000000.tar"
    write_shard(path, (make_sample(index) for index in range(3)))
    return path


@pytest.mark.parametrize(
    ("copies", "styled"),
    [
        (0, []),
        (1, ["styled.jpg"]),
        (3, ["styled0.jpg", "styled1.jpg", "styled2.jpg"]),
    ],
)
def test_members_have_the_names_and_order_of_the_format(tmp_path: Path, copies: int, styled: list[str]) -> None:
    path = tmp_path / "a.tar"
    assert write_shard(path, [make_sample(1234, copies), make_sample(7, copies)]) == 2
    expected = [f"{key}.{name}" for key in ("00001234", "00000007") for name in ("content.jpg", *styled, "cls", "json")]
    assert [member.name for member in members(path)] == expected


def test_headers_are_constant_ustar(shard: Path) -> None:
    for member in members(shard):
        fields = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode, member.type)
        assert fields == (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
        assert shard.read_bytes()[member.offset + 257 : member.offset + 265] == b"ustar\x0000"


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_it_is_the_tar_that_tarfile_writes(tmp_path: Path, samples: int) -> None:
    made = [replace(make_sample(index), content=bytes(500 * index + 12)) for index in range(samples)]
    write_shard(tmp_path / "ours.tar", made)
    theirs = write_tar(tmp_path / "theirs.tar", [member for sample in made for member in sample_members(sample, "jpg")])
    assert (tmp_path / "ours.tar").read_bytes() == theirs.read_bytes()


def test_what_a_header_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit into a ustar header"):
        write_shard(tmp_path / "shard.tar", [replace(make_sample(0), key="0" * 100)])


def test_equal_samples_give_equal_bytes(tmp_path: Path, shard: Path) -> None:
    other = tmp_path / "other.tar"
    write_shard(other, [make_sample(index) for index in range(3)])
    assert file_sha256(other) == file_sha256(shard)


def test_order_of_metadata_does_not_matter(tmp_path: Path) -> None:
    for name, metadata in (("a", {"x": 1, "ä": 2}), ("b", {"ä": 2, "x": 1})):
        write_shard(tmp_path / name, [Sample("0", b"", (), 0, metadata)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("copies", [0, 1, 3])
@pytest.mark.parametrize("codec", ["jpg", "png", "webp"])
def test_samples_come_back(tmp_path: Path, copies: int, codec: str) -> None:
    samples = [make_sample(index, copies) for index in (5, 2, 9)]
    write_shard(tmp_path / "a.tar", samples, codec)
    assert list(read_shard(tmp_path / "a.tar")) == samples


def test_a_shard_without_samples_is_read_as_such(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a.tar", []) == 0
    assert list(read_shard(tmp_path / "a.tar")) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its own
@pytest.mark.parametrize("copies", [1, 3])
def test_webdataset_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    monkeypatch.setenv("WDS_SECURE", "1")
    webdataset = pytest.importorskip("webdataset")
    samples = [make_sample(index, copies) for index in range(4)]
    write_shard(tmp_path / "a.tar", samples)
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    names = ["styled.jpg"] if copies == 1 else [f"styled{k}.jpg" for k in range(copies)]
    for sample, record in zip(samples, found, strict=True):
        assert record["__key__"] == sample.key
        assert (record["content.jpg"], int(record["cls"])) == (sample.content, sample.label)
        assert tuple(record[name] for name in names) == sample.styled
        assert json.loads(record["json"]) == sample.metadata


@pytest.mark.parametrize(
    "name",
    [
        "00000000.pkl",
        "00000000.content.pth",
        "../00000001.cls",
        "/00000001.cls",
        "a/00000001.cls",
        "abc.cls",
        "٣.cls",
        "00000001.cls.jpg",
        "00000001.content",
        "00000001.json.png",
        "00000001.content.jpg.png",
        "00000001.content.gif",
        "00000001.cls\n",
        "",
    ],
)
def test_foreign_members_are_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", [*entries(), (name, b"x")])
    with pytest.raises(InputError, match="holds the foreign member"):
        list(read_shard(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_members_that_are_no_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", [(special("00000000.content.jpg", kind), b""), *entries()[1:]])
    with pytest.raises(InputError, match=r"foreign member '00000000\.content\.jpg'"):
        list(read_shard(path))


def test_a_member_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    first, second = tarfile.TarInfo("00000000.content.jpg"), tarfile.TarInfo("00000000.styled.jpg")
    second.size = -BLOCK
    path = tmp_path / "a.tar"
    path.write_bytes(first.tobuf() + second.tobuf(tarfile.GNU_FORMAT) + bytes(2 * BLOCK))
    with pytest.raises(InputError, match=r"foreign member|cannot be read"):
        list(read_shard(path))


def without(position: int) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return entries()[:position] + entries()[position + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entries("1") + entries("2") + entries("1"), "key 1 twice"),
        (entries("1") + entries("1"), "incomplete"),
        (without(0), "incomplete"),
        (without(2), "incomplete"),
        (without(3), "incomplete"),
        (entries()[::-1], "incomplete"),
        ([*entries()[:1], ("00000000.styled1.jpg", b"s"), *entries()[2:]], "incomplete"),
        ([*entries()[:2], ("00000000.cls", b"-1"), entries()[3]], "label b'-1'"),
        ([*entries()[:2], ("00000000.cls", b"cat"), entries()[3]], "label b'cat'"),
        ([*entries()[:2], ("00000000.cls", b""), entries()[3]], "label b''"),
        ([*entries()[:2], ("00000000.cls", b"9" * 5000), entries()[3]], "label b'999"),
        ([*entries()[:3], ("00000000.json", b"{")], "not JSON"),
        ([*entries()[:3], ("00000000.json", b"\xff")], "not JSON"),
    ],
)
def test_damaged_samples_are_refused(
    tmp_path: Path, content: list[tuple[str | tarfile.TarInfo, bytes]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        list(read_shard(write_tar(tmp_path / "a.tar", content)))


def test_a_cut_inside_a_sample_is_seen_wherever_it_lies(shard: Path) -> None:
    whole, last = shard.read_bytes(), members(shard)[-4:]
    inside = [member.offset + step for member in last for step in (100, BLOCK, BLOCK + 3)]
    between_members = [member.offset for member in last[1:]]
    for cut in inside + between_members:
        if cut == last[0].offset + 100:
            continue  # a cut inside a sample's first header reads as the end: only the manifest tells
        shard.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            list(read_shard(shard))


@pytest.mark.parametrize("data", [b"", b"garbage" * 300, b"\x00" * 100, b"<html></html>"])
def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        list(read_shard(tmp_path / "a.tar"))


def test_compressed_and_missing_shards_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("00000000.cls"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_shard(tmp_path / "a.tar"))
    with pytest.raises(InputError, match="cannot be opened"):
        list(read_shard(tmp_path / "absent.tar"))


Listed = list[tuple[str, tuple[int, int] | None]]


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
def small_shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-000000.tar"
    write_shard(path, (Sample(f"{index:08d}", b"c" * 700, (b"s" * 512,), 1, {"a": index}) for index in range(2)))
    return path


def test_a_shard_is_listed_as_by_tarfile_but_without_it(small_shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, error = listed(by_us(small_shard))
    assert (found, error) == listed(by_tarfile(small_shard))
    assert len(found) == 8

    def see_the_end(*_arguments: object) -> tarfile.TarInfo:
        raise tarfile.EOFHeaderError("the end")  # type: ignore[attr-defined]

    monkeypatch.setattr(tarfile.TarInfo, "frombuf", see_the_end)
    assert listed(by_us(small_shard)) == (found, None)


def test_a_cut_shard_is_listed_as_by_tarfile(small_shard: Path) -> None:
    whole, cut = small_shard.read_bytes(), small_shard.with_name("cut.tar")
    ends = {end + near for end in range(0, len(whole), BLOCK) for near in (0, 1, 200)}
    for end in ends:
        cut.write_bytes(whole[:end])
        assert listed(by_us(cut)) == listed(by_tarfile(cut)), end


def test_a_damaged_header_is_read_as_by_tarfile(small_shard: Path) -> None:
    whole, damaged = small_shard.read_bytes(), small_shard.with_name("damaged.tar")
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
def test_a_whole_header_with_other_fields_is_read_as_by_tarfile(small_shard: Path, place: int, value: bytes) -> None:
    block = bytearray(small_shard.read_bytes())
    block[place : place + len(value)], block[148:156] = value, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    small_shard.write_bytes(block)
    assert listed(by_us(small_shard)) == listed(by_tarfile(small_shard))


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_foreign_tar_is_listed_as_by_tarfile(tmp_path: Path, small_shard: Path, layout: int) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    foreign = io.BytesIO()
    with tarfile.open(fileobj=foreign, mode="w", format=layout) as tar:
        for member in (tarfile.TarInfo("00000003.cls"), link, tarfile.TarInfo("d" * 90 + "/" + "n" * 90)):
            tar.addfile(member)
    own = small_shard.read_bytes()[: 3 * BLOCK]  # one member, its payload of two blocks
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
