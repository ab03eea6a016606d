"""Sets known by name: found with their official checksums, or downloaded; here from a server of our own."""

import gzip
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest

from made_files import cifar_tree, idx_pair, tar, write_tree
from nabi import cache, data
from nabi.data import named, official
from nabi.data.named import NAMED, Form, Named
from nabi.data.official import File
from nabi.errors import ChecksumError, DownloadError

DATA = os.environ.get("NABI_DATA", "")


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    """No data, no cache, no network but what the test gives."""
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NABI_DATA", "")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server(tmp_path):
    """Serves the folder ``served``; gives the folder, its address and the list of what was asked for."""
    (tmp_path / "served").mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "served")

        def log_message(self, *arguments):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield tmp_path / "served", f"http://127.0.0.1:{server.server_address[1]}/", asked
        server.shutdown()
        thread.join()


PAIRS = idx_pair(12) | idx_pair(5, "t10k", seed=1)


def published(files, *addresses, unpacked=False):
    return tuple(
        File(
            name,
            hashlib.md5(content).hexdigest(),
            len(content),
            addresses or ("http://127.0.0.1:9/",),
            hashlib.sha256(gzip.decompress(content)).hexdigest() if unpacked else "",
        )
        for name, content in files.items()
    )


@pytest.fixture
def declare(monkeypatch):
    """Declares a data set under a name, as a contributor would: one line."""

    def declare(name, files, read=named._mnist):
        monkeypatch.setitem(NAMED, name, Named(name, "a test", (Form(files, read),)))

    return declare


def test_downloaded_once_verified_and_found_again(server, declare):
    folder, address, asked = server
    write_tree(folder, PAIRS)
    declare("tiny", published(PAIRS, address))
    heard = []
    found = data.load("tiny", progress=lambda done, total: heard.append((done, total)))
    assert len(found.train) == 12
    assert found.name == "tiny"
    assert found.classes == tuple("0123456789")
    assert len(asked) == 4
    sizes = [len(content) for content in PAIRS.values()]
    assert list(dict.fromkeys(total for done, total in heard if done == total)) == sizes
    again = data.load("tiny")
    assert len(asked) == 4
    np.testing.assert_array_equal(found.train.images, again.train.images)
    assert {entry.kind for entry in cache.entries()} == {"downloads"}
    kept = sorted(path.name for path in (cache.folder() / "downloads" / "tiny").iterdir())
    assert kept == sorted(PAIRS)


def test_the_second_address_serves_when_the_first_does_not(server, declare):
    folder, address, _ = server
    write_tree(folder, PAIRS)
    declare("tiny", published(PAIRS, "http://127.0.0.1:9/", address + "not/here/", address))
    assert len(data.load("tiny").train) == 12


def test_the_second_address_serves_when_the_first_gives_a_page(server, declare):
    folder, address, _ = server
    write_tree(folder, PAIRS | {f"page/{name}": b"<html>Gone" for name in PAIRS})
    declare("tiny", published(PAIRS, address + "page/", address))
    assert len(data.load("tiny").train) == 12


def test_a_server_may_send_many_small_pieces(declare):
    """Of 10 bytes, so that there are many."""
    content = os.urandom(5000)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            pieces = [content[start : start + 10] for start in range(0, len(content), 10)]
            self.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""]))

        def log_message(self, *arguments):
            pass

    heard = []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        files = published({"x": content}, f"http://127.0.0.1:{server.server_address[1]}/")
        (path,) = official.download("tiny", files, lambda done, total: heard.append((done, total)))
        thread.join()
    assert path.read_bytes() == content
    assert heard[-1] == (5000, 5000)
    assert heard == sorted(set(heard))


def test_what_is_not_the_official_file_is_not_kept(server, declare):
    folder, address, _ = server
    write_tree(folder, {name: content[:-1] + b"!" for name, content in PAIRS.items()})
    declare("tiny", published(PAIRS, address))
    with pytest.raises(ChecksumError, match=r"train-images[^\n]*what came is not the official file"):
        data.load("tiny")
    assert list((cache.folder() / "downloads" / "tiny").iterdir()) == []


def test_a_download_that_is_longer_than_the_file_is_broken_off(server, declare):
    folder, address, _ = server
    write_tree(folder, {name: content + bytes(1 << 20) for name, content in PAIRS.items()})
    declare("tiny", published(PAIRS, address))
    with pytest.raises(DownloadError, match="could not be downloaded"):
        data.load("tiny")
    assert list((cache.folder() / "downloads" / "tiny").iterdir()) == []


def test_no_network_names_the_address_and_the_alternative(declare):
    declare("tiny", published(PAIRS))
    with pytest.raises(DownloadError, match=r"^http://127\.0\.0\.1:9/train-images[^\n]*NABI_DATA$"):
        data.load("tiny")


def test_no_room_for_a_download(declare, monkeypatch):
    declare("tiny", published(PAIRS))
    monkeypatch.setattr(cache, "KEEP_FREE", 1 << 62)
    with pytest.raises(DownloadError, match="no room"):
        data.load("tiny")


def test_no_folder_for_a_download(declare, tmp_path):
    declare("tiny", published(PAIRS))
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(DownloadError, match="no folder to download to"):
        data.load("tiny")


@pytest.mark.parametrize("where", ["", "tiny/"])
def test_nabi_data_is_looked_through_in_order(tmp_path, monkeypatch, declare, where):
    declare("tiny", published(PAIRS))
    write_tree(tmp_path / "second", {where + name: content for name, content in PAIRS.items()})
    (tmp_path / "first").mkdir()
    named_folders = [str(tmp_path / "nowhere"), str(tmp_path / "first"), str(tmp_path / "second")]
    monkeypatch.setenv("NABI_DATA", os.pathsep.join(named_folders))
    assert len(data.load("tiny").train) == 12


def test_a_copy_under_the_official_name_is_refused(tmp_path, monkeypatch, declare):
    declare("tiny", published(PAIRS))
    changed = PAIRS | {"t10k-labels-idx1-ubyte.gz": idx_pair(5, "t10k", seed=2)["t10k-images-idx3-ubyte.gz"]}
    monkeypatch.setenv("NABI_DATA", str(write_tree(tmp_path / "data", changed)))
    with pytest.raises(ChecksumError, match=r"t10k-labels-idx1-ubyte\.gz: not the official file [^\n]*by its path"):
        data.load("tiny")


def test_another_place_with_the_official_files_is_preferred(tmp_path, monkeypatch, declare):
    declare("tiny", published(PAIRS))
    write_tree(tmp_path / "wrong", dict.fromkeys(PAIRS, b"something else"))
    write_tree(tmp_path / "right", PAIRS)
    monkeypatch.setenv("NABI_DATA", os.pathsep.join([str(tmp_path / "wrong"), str(tmp_path / "right")]))
    assert len(data.load("tiny").train) == 12


def test_another_set_with_the_same_file_names_is_passed_over(tmp_path, monkeypatch, declare):
    """MNIST's files and Fashion-MNIST's are called alike."""
    others = idx_pair(9, seed=5) | idx_pair(3, "t10k", seed=6)
    declare("tiny", published(PAIRS))
    declare("other", published(others))
    monkeypatch.setenv(
        "NABI_DATA", str(write_tree(tmp_path / "data", others | {f"tiny/{n}": c for n, c in PAIRS.items()}))
    )
    assert len(data.load("tiny").train) == 12
    assert len(data.load("other").train) == 9
    for name in PAIRS:
        (tmp_path / "data" / "tiny" / name).unlink()
    with pytest.raises(DownloadError):  # not a wrong checksum
        data.load("tiny")


def test_repacked_files_are_known_by_their_content(tmp_path, monkeypatch, declare):
    declare("tiny", published(PAIRS, unpacked=True))
    repacked = {name: gzip.compress(gzip.decompress(content), 1, mtime=1) for name, content in PAIRS.items()}
    assert repacked != PAIRS
    monkeypatch.setenv("NABI_DATA", str(write_tree(tmp_path / "data", repacked)))
    assert len(data.load("tiny").train) == 12
    (tmp_path / "data" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8bdamaged")
    with pytest.raises(ChecksumError, match="t10k-labels"):
        data.load("tiny")


def test_any_form_that_is_at_hand_serves(tmp_path, monkeypatch):
    python = {"cifar-10-python.tar.gz": tar(cifar_tree(2, "python2"), "w:gz")}
    binary = {"cifar-10-binary.tar.gz": tar(cifar_tree(2, "binary"), "w:gz")}
    forms = tuple(Form(published(files), named._cifar) for files in (binary, python))
    monkeypatch.setitem(NAMED, "tiny", Named("tiny", "a test", forms))
    monkeypatch.setenv("NABI_DATA", str(write_tree(tmp_path / "data", python)))
    found = data.load("tiny")
    assert (len(found.train), len(found.test), found.classes[0]) == (10, 2, "airplane")


def test_excerpts_do_not_pass_for_the_official_files(tmp_path, monkeypatch):
    monkeypatch.setenv("NABI_DATA", str(tmp_path))
    write_tree(tmp_path, {"cifar-10-binary.tar.gz": tar(cifar_tree(2, "binary"), "w:gz")})
    with pytest.raises(ChecksumError, match=r"cifar-10-binary\.tar\.gz: not the official file"):
        data.load("cifar10")
    assert len(data.load(tmp_path / "cifar-10-binary.tar.gz").train) == 10


def test_every_declaration_is_complete():
    assert set(NAMED) == {"digits", "cifar10", "cifar100", "mnist", "fashion-mnist"}
    for name, declared in NAMED.items():
        assert declared.name == name
        assert declared.summary
        for form in declared.forms:
            for file in form.files:
                assert len(bytes.fromhex(file.md5)) == 16
                assert file.size > 0
                assert all(address.startswith("http") and address.endswith("/") for address in file.addresses)
    every = [file.md5 for declared in NAMED.values() for form in declared.forms for file in form.files]
    assert len(every) == len(set(every))


def test_fashion_mnist_by_its_name(real_data, monkeypatch):
    if not (real_data / "fashion-mnist").is_dir():
        pytest.skip("real data: no fashion-mnist")
    monkeypatch.setenv("NABI_DATA", DATA)
    monkeypatch.setattr(official, "download", lambda *_: pytest.fail("it is there and need not be downloaded"))
    found = data.load("fashion-mnist")
    assert found.train.images.shape == (60_000, 28, 28, 1)
    assert found.test.images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(found.test.labels), np.full(10, 1000))
    assert found.classes[9] == "Ankle boot"
    assert found.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
