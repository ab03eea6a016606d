"""Folders and archives: what is read, what is skipped, what is refused."""

import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from made_files import tar, write_tree, zipped
from nabi.data import files
from nabi.data.files import is_archive, members, open_regular, reading_again, unpacked
from nabi.errors import DataError, FormatError

TREE = {"b/2.txt": b"two", "a/1.txt": b"one", "a/empty/": b"", "top.txt": b"top"}
PACKED = {
    "x.tar": tar(TREE),
    "x.tar.gz": tar(TREE, "w:gz"),
    "x.tar.xz": tar(TREE, "w:xz"),
    "x.zip": zipped(TREE),
}


def found(path: Path, **options) -> dict[str, bytes | str]:
    """Every member's content, or its problem."""
    return {member.name: member.problem or member.read() for member in members(path, **options)}


@pytest.fixture(params=sorted(PACKED))
def archive(request, tmp_path):
    path = tmp_path / request.param
    path.write_bytes(PACKED[request.param])
    return path


def test_an_archive_gives_its_members(archive):
    assert is_archive(archive)
    assert found(archive) == {"a/1.txt": b"one", "b/2.txt": b"two", "a/empty/": b"", "top.txt": b"top"}


def test_a_folder_gives_its_members_sorted(tmp_path):
    write_tree(tmp_path, TREE)
    result = found(tmp_path)
    assert result == {"a/": b"", "b/": b"", "top.txt": b"top", "a/1.txt": b"one", "a/empty/": b"", "b/2.txt": b"two"}
    assert [name for name in result if name.endswith(".txt")] == ["top.txt", "a/1.txt", "b/2.txt"]


@pytest.mark.parametrize("form", ["folder", "x.tar"])
def test_a_member_is_read_again(tmp_path, form):
    path = tmp_path / form
    write_tree(path, TREE) if form == "folder" else path.write_bytes(PACKED[form])
    read_again = reading_again(path)
    for member in members(path):
        if not member.is_folder:
            assert read_again(member.name, member.size, member.mark) == TREE[member.name]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.xz", "x.zip"])
def test_of_a_compressed_archive_no_member_is_read_alone(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    assert reading_again(tmp_path / name) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and links")
@pytest.mark.parametrize("now", ["gone", "pipe", "link", "longer", "later"])
def test_a_member_that_is_another_is_not_read_again(tmp_path, now):
    write_tree(tmp_path / "set", TREE)
    (tmp_path / "secret").write_bytes(b"two")
    read_again = reading_again(tmp_path / "set")
    (member,) = [member for member in members(tmp_path / "set") if member.name == "b/2.txt"]
    path = tmp_path / "set/b/2.txt"
    if now in ("longer", "later"):
        path.write_bytes(b"two" if now == "later" else b"three")
        os.utime(path, ns=(0, member.mark + (now == "later")))
    else:
        path.unlink()
    if now == "pipe":
        os.mkfifo(path)
    elif now == "link":
        path.symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=rf"^{path}: [^\n]*$"):
        read_again(member.name, member.size, member.mark)


def test_no_member_outside_is_read_again(tmp_path):
    write_tree(tmp_path / "set", TREE)
    (tmp_path / "secret").write_bytes(b"two")
    status = (tmp_path / "secret").stat()
    with pytest.raises(DataError, match="leads outside"):
        reading_again(tmp_path / "set")(str(tmp_path / "secret"), status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("said", [0, 1, 5000, 100_000])
def test_a_file_that_is_longer_than_it_said_is_read_in_few_pieces(tmp_path, monkeypatch, said):
    content = bytes(range(250)) * 20
    (tmp_path / "file").write_bytes(content)
    asked = []

    class Watched(io.FileIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    monkeypatch.setattr(files, "open_regular", lambda path, *_, **__: Watched(path))
    monkeypatch.setattr(files.os, "fstat", lambda _: os.stat_result((0, 0, 0, 0, 0, 0, said, 0, 0, 0)))
    assert files.read_regular(tmp_path / "file") == content
    assert asked[0] == said + 1
    assert len(asked) <= 15


def test_members_that_are_not_wanted_are_named_but_not_read(archive):
    assert found(archive, wanted=lambda name: name == "top.txt")["a/1.txt"] == b""
    assert found(archive, wanted=lambda name: name == "top.txt")["top.txt"] == b"top"


def test_progress_ends_at_the_whole_file(archive):
    heard = []
    list(members(archive, report=lambda done, total: heard.append((done, total))))
    size = archive.stat().st_size
    assert heard[-1] == (size, size)
    assert heard == sorted(heard)


def test_hidden_files_are_passed_over(tmp_path):
    tree = {".git/x": b"", "a/.DS_Store": b"", "__MACOSX/a/1": b"", "a/1": b"1"}
    (tmp_path / "x.zip").write_bytes(zipped(tree))
    (tmp_path / "x.tar").write_bytes(tar(tree))
    write_tree(tmp_path / "folder", {name: content for name, content in tree.items() if "__MACOSX" not in name})
    assert found(tmp_path / "x.zip") == found(tmp_path / "x.tar") == {"a/1": b"1"}
    assert found(tmp_path / "folder") == {"a/": b"", "a/1": b"1"}


def test_names_that_climb_are_only_names(tmp_path):
    tree = {"../../outside/1": b"1", "/etc/2": b"2", "./a//./3": b"3"}
    for name, content in (("x.tar", tar(tree)), ("x.zip", zipped(tree))):
        (tmp_path / name).write_bytes(content)
        assert found(tmp_path / name) == {"outside/1": b"1", "etc/2": b"2", "a/3": b"3"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "x.zip"]


# --- what is not a regular file


def test_special_members_of_a_tar_are_named_with_the_reason(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"a/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert found(tmp_path / "x.tar") == dict.fromkeys(["a/link", "a/hard", "a/pipe"], "not a regular file")


def test_special_members_of_a_zip_are_named_with_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(zipfile.ZipInfo("a/lzma"), b"x" * 99, zipfile.ZIP_LZMA)
    assert found(tmp_path / "x.zip") == {
        "a/link": "not a regular file",
        "a/lzma": "packed in a way other than zip's usual one",
    }


def test_an_encrypted_member_is_named(tmp_path):
    content = bytearray(zipped({"a/1": b"secret"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    assert found(tmp_path / "x.zip") == {"a/1": "encrypted"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and links")
def test_links_pipes_and_sockets_in_a_folder(tmp_path):
    write_tree(tmp_path, {"outside/secret": b"secret", "root/a/1": b"one", "root/a/deep/2": b"two"})
    root = tmp_path / "root"
    os.mkfifo(root / "a" / "pipe")
    (root / "a" / "inside").symlink_to(root / "a" / "1")
    (root / "a" / "out").symlink_to(tmp_path / "outside" / "secret")
    (root / "a" / "folder").symlink_to(tmp_path / "outside")
    (root / "a" / "within").symlink_to("deep")
    (root / "a" / "nowhere").symlink_to("nothing")
    (root / "a" / "self").symlink_to("self")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root / "a")  # a socket's path is short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        result = {name: content for name, content in found(root).items() if not name.endswith("/")}
    assert result.pop("a/self")  # the reason depends on the platform
    assert result == {
        "a/1": b"one",
        "a/deep/2": b"two",
        "a/inside": b"one",
        "a/pipe": "not a regular file",
        "a/socket": "not a regular file",
        "a/out": "a link that leads outside the folder",
        "a/folder": "a link that leads outside the folder",
        "a/within": "a link to a folder",
        "a/nowhere": "no such file or directory",
    }


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    write_tree(tmp_path / "real", {"a/1": b"one"})
    (tmp_path / "link").symlink_to("real")
    assert found(tmp_path / "link")["a/1"] == b"one"


def test_a_file_that_vanishes_has_a_reason(tmp_path):
    write_tree(tmp_path, {"a/1": b"one"})
    (member,) = [member for member in members(tmp_path) if not member.is_folder]
    (tmp_path / "a/1").unlink()
    with pytest.raises(DataError, match=r"^a/1: no such file"):
        member.read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path):
    write_tree(tmp_path, {"a/1": b"one"})
    (member,) = [member for member in members(tmp_path) if not member.is_folder]
    (tmp_path / "a/1").unlink()
    os.mkfifo(tmp_path / "a/1")
    with pytest.raises(DataError, match=r"^a/1: not a regular file"):
        member.read()


def test_unreadable_files_and_folders_have_reasons(tmp_path, monkeypatch):
    """Simulated: whoever runs the tests as root may read everything."""
    write_tree(tmp_path, {"a/1": b"one", "b/2": b"two"})
    real_open, real_scan = os.open, os.scandir

    def refuse(real, name):
        def call(path, *rest):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return real(path, *rest)

        return call

    monkeypatch.setattr(os, "open", refuse(real_open, "1"))
    monkeypatch.setattr(os, "scandir", refuse(real_scan, "b"))
    result = list(members(tmp_path))
    assert [(member.name, member.problem) for member in result if member.problem] == [("b/", "permission denied")]
    with pytest.raises(DataError, match=r"^a/1: permission denied"):
        next(member for member in result if member.name == "a/1").read()


def test_a_thousand_folders_deep(tmp_path):
    deep = tar({"/".join(["d"] * 2000) + "/1": b"one"})
    (tmp_path / "x.tar").write_bytes(deep)
    assert list(found(tmp_path / "x.tar").values()) == [b"one"]


@pytest.mark.parametrize("path", ["/nonexistent/file", "a\0b"])
def test_a_path_that_is_nothing(path):
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        open_regular(Path(path))


# --- damage


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_an_archive_cut_short_is_refused(archive, part):
    content = archive.read_bytes()
    if archive.name == "x.tar":
        content = content.rstrip(b"\0")  # of the 10 KiB that a tar is filled up to, any two blocks are its end
    archive.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(FormatError, match=rf"^{archive}: [^\n]+$"):
        found(archive)


def test_a_member_without_a_name_is_nothing(tmp_path):
    content = bytearray(zipped({"a/1": b"one", "n": b"two"}))
    start = content.rfind(b"PK\x01\x02")  # the last entry of the directory: its name is given length 0
    content[start + 28 : start + 30] = b"\0\0"
    del content[start + 46]
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = (int.from_bytes(content[end + 12 : end + 16], "little") - 1).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    assert set(found(tmp_path / "x.zip")) <= {"a/1", ""}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.xz", "x.zip"])
def test_every_damaged_byte_is_noticed_where_there_is_a_checksum(tmp_path, name):
    """Of a member's content: no changed byte goes through as if it were the picture's."""
    content = tar({"a/1": bytes(range(256))}, "w:" + name[-2:]) if "tar" in name else zipped({"a/1": bytes(range(256))})
    path = tmp_path / name
    wrong = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            result = found(path).values()
        except FormatError:
            wrong += 1
            continue
        assert all(value == bytes(range(256)) or isinstance(value, str) for value in result)
    assert wrong > 200


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path):
    content = bytearray(tar({"a/1": b"one", "a/2": b"two", "a/3": b"three"}))
    content[1024 + 3] ^= 1  # the second header
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(FormatError, match="bad checksum"):
        found(tmp_path / "x.tar")


def test_a_tar_without_its_end_is_cut_short(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({"a/1": b"one"})[:1024])
    with pytest.raises(FormatError, match="end mark"):
        found(tmp_path / "x.tar")


def test_something_else_is_no_archive(tmp_path):
    for content in (b"", b"hello", gzip.compress(b"hello"), lzma.compress(b"hello"), b"\0" * 2000):
        (tmp_path / "x").write_bytes(content)
        assert not is_archive(tmp_path / "x")


# --- what is larger than it seems


def peak(function) -> int:
    tracemalloc.start()
    try:
        function()
    finally:
        peaked = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peaked


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_small_archive_cannot_unpack_to_much(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(files, "MAX_UNPACKED_ANYWAY", 1 << 20)
    (tmp_path / "bomb").write_bytes(pack(tar({"a/1": bytes(20 << 20)})))

    def refused():
        with pytest.raises(FormatError, match="unpacks to more than 200 times its size"):
            found(tmp_path / "bomb")

    assert peak(refused) < 16 << 20  # of which an .xz takes 8 for its dictionary


def test_a_small_zip_cannot_unpack_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED_ANYWAY", 1 << 20)
    (tmp_path / "bomb.zip").write_bytes(zipped({f"a/{number}": bytes(300_000) for number in range(9)}))

    def refused():
        with pytest.raises(FormatError, match="unpacks to more than 200 times its size"):
            found(tmp_path / "bomb.zip")

    assert peak(refused) < 12 << 20


def test_a_zip_whose_members_claim_little_is_cut_at_what_they_claim(tmp_path):
    content = bytearray(zipped({"a/1": bytes(1 << 20)}))
    start = content.index(b"PK\x01\x02")
    content[start + 24 : start + 28] = (100).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        found(tmp_path / "x.zip")


def test_a_zip_member_that_claims_little_does_not_unpack_to_much(tmp_path):
    """Not even where its checksum is that of the little."""
    content = bytearray(zipped({"a/1": bytes(64 << 20)}))
    start = content.index(b"PK\x01\x02")
    content[start + 16 : start + 20] = zlib.crc32(bytes(10)).to_bytes(4, "little")
    content[start + 24 : start + 28] = (10).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)

    def refused():
        with pytest.raises(FormatError, match=r"damaged|more than the 10 bytes"):
            found(tmp_path / "x.zip")

    assert peak(refused) < 4 << 20


def test_a_zip_member_that_claims_more_than_the_file_has(tmp_path):
    content = bytearray(zipped({"a/1": b"one"}))
    start = content.index(b"PK\x01\x02")
    content[start + 20 : start + 24] = (1 << 30).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)

    def refused():
        with pytest.raises(FormatError, match="a member that claims 1073741824 bytes in a file of"):
            found(tmp_path / "x.zip")

    assert peak(refused) < 1 << 20


def test_no_room_is_made_for_what_is_not_there(tmp_path):
    write_tree(tmp_path, {"a/1": b"one"})
    assert peak(lambda: found(tmp_path)) < 4 << 20
    assert peak(lambda: unpacked(tmp_path / "a/1", 1 << 40)) < 4 << 20


@pytest.mark.parametrize("make", [tar, zipped])
def test_an_archive_has_one_member_in_memory_at_a_time(tmp_path, make):
    (tmp_path / "x").write_bytes(make({f"a/{number}": os.urandom(8 << 20) for number in range(3)}))

    def pass_through():
        for member in members(tmp_path / "x"):
            del member

    assert peak(pass_through) < 14 << 20


def header(**fields) -> bytes:
    member = tarfile.TarInfo("a/1")
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_that_claims_to_be_huge_is_refused_at_once(tmp_path, kind):
    (tmp_path / "x.tar").write_bytes(header(type=kind, size=10**12) + bytes(1024))

    def refused():
        with pytest.raises(FormatError, match="a header of 1000000000000 bytes"):
            found(tmp_path / "x.tar")

    assert peak(refused) < 1 << 20


def test_a_tar_member_that_claims_to_be_huge_is_named_and_not_read(tmp_path):
    (tmp_path / "x.tar").write_bytes(header(size=10**12) + bytes(1024))
    first = next(members(tmp_path / "x.tar"))
    assert first.problem == "larger than 256 MiB"
    with pytest.raises(FormatError):
        found(tmp_path / "x.tar")  # and what it claims is not there


def records(names) -> bytes:
    return b"".join(b"%d %s=x\n" % (len(name) + 6, name) for name in names)


def global_header(content: bytes) -> bytes:
    return header(type=tarfile.XGLTYPE, size=len(content)) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def test_global_headers_of_a_tar_are_few(tmp_path):
    names = [b"k%06d" % number for number in range(1200)]
    member = header(size=3) + b"abc".ljust(512, b"\0")
    some = b"".join(global_header(records(names[start : start + 400])) for start in (0, 400))
    more = global_header(records(names[800:]))
    (tmp_path / "x.tar").write_bytes(some + member + bytes(1024))
    assert found(tmp_path / "x.tar") == {"a/1": b"abc"}
    (tmp_path / "x.tar").write_bytes(some + more + member + bytes(1024))
    with pytest.raises(FormatError, match="more than 1000 records"):
        found(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(global_header(records(names * 5)) + member + bytes(1024))
    with pytest.raises(FormatError, match="a header of 78000 bytes"):
        found(tmp_path / "x.tar")


@pytest.mark.parametrize("size", [b"-512", b"-1024", b"1000000000000", b"9" * 30])
def test_a_tar_member_whose_size_is_written_anew(tmp_path, size):
    """An extended header comes before the member's own, which was harmless when it was checked."""
    record = b"%d size=%s\n" % (len(size) + 9, size)
    content = header(type=tarfile.XHDTYPE, size=len(record)) + record.ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(content + header(size=3) + b"abc".ljust(512, b"\0") + bytes(1024))
    with pytest.raises(FormatError, match="damaged or cut short"):
        found(tmp_path / "x.tar")


def test_a_chain_of_headers_does_not_exhaust_the_stack(tmp_path):
    extension = header(type=tarfile.XHDTYPE, size=0)
    (tmp_path / "x.tar").write_bytes(extension * 5000 + bytes(1024))
    with pytest.raises(FormatError, match="damaged"):
        found(tmp_path / "x.tar")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_MEMBERS", 3)
    for name, content in PACKED.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match="more than 3 members"):
            found(tmp_path / name)


def test_an_xz_that_asks_for_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_XZ_MEMORY", 1 << 20)
    content = lzma.compress(tar(TREE), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}])
    (tmp_path / "x.tar.xz").write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        found(tmp_path / "x.tar.xz")


def test_large_files_are_read_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE", 100)
    write_tree(tmp_path, {"a/1": b"1" * 100, "a/2": b"2" * 101})
    (large,) = [member for member in members(tmp_path) if member.name == "a/2"]
    with pytest.raises(DataError, match=r"^a/2: larger than"):
        large.read()
    assert next(member for member in members(tmp_path) if member.name == "a/1").read() == b"1" * 100


# --- .xz and .gz by themselves


def test_unpacked_reads_streams_one_after_another_with_padding(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(lzma.compress(b"one") + bytes(8) + lzma.compress(b"two" * 100_000) + bytes(4))
    assert unpacked(path, 10**6) == b"one" + b"two" * 100_000
    path.write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert unpacked(path, 6) == b"onetwo"
    path.write_bytes(b"plain")
    assert unpacked(path, 5) == b"plain"
    with pytest.raises(FormatError, match="more than 4 bytes"):
        unpacked(path, 4)


def test_xz_reads_as_the_standard_library_does(tmp_path):
    content = os.urandom(300_000) + bytes(3_000_000)
    buffer = io.BytesIO()
    with lzma.LZMAFile(buffer, "w", preset=1) as packed:
        packed.write(content)
    (tmp_path / "x.xz").write_bytes(buffer.getvalue())
    assert unpacked(tmp_path / "x.xz", 10**7) == content
