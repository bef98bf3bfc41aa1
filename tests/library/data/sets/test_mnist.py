"""idx files and their errors, MNIST through TFDS, downloads from a loopback server."""

import functools
import gzip
import hashlib
import http.server
import importlib.resources
import pathlib
import socket
import struct
import threading

import numpy as np
import pytest

from library.data import pipeline, sources
from library.data.sets import mnist

PREPARED = pathlib.Path(__file__).parents[4] / ".cache" / "data"


def idx(array, code=0x08):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def digest(raw):
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A small set in place of MNIST, its checksums registered, under an ANSATZ_DATA of its own."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / mnist.FOLDER
    folder.mkdir(parents=True)
    files = {}
    for name in mnist.FILES:
        num_examples = 12 if name.startswith("train") else 5
        shape = (num_examples, 28, 28) if "images" in name else (num_examples,)
        raw = idx(rng.integers(0, 10, shape, dtype=np.uint8))
        zipped = gzip.compress(raw)
        (folder / name).write_bytes(zipped)
        files[name] = (len(zipped), digest(zipped), digest(raw))
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path / "data"))
    return folder


@pytest.mark.parametrize(
    "dtype, code",
    [("u1", 0x08), ("i1", 0x09), ("i2", 0x0B), ("i4", 0x0C), ("f4", 0x0D), ("f8", 0x0E)],
)
def test_idx_round_trip(tmp_path, dtype, code):
    array = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    raw = idx(array, code)
    (tmp_path / "plain").write_bytes(raw)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(raw))
    for file in (raw, gzip.compress(raw), tmp_path / "plain", str(tmp_path / "zipped.gz")):
        back = mnist.read_idx(file, sha256=digest(raw))
        assert back.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(back, array)


def corrupted(raw, kind):
    """A gzip file gone wrong, and what the error must say."""
    zipped = gzip.compress(raw)
    flipped = raw[:-1] + bytes([raw[-1] ^ 1])
    return {
        "empty": (b"", "starts with nothing"),
        "png": (b"\x89PNG\r\n\x1a\n", "not an idx file: it starts with 89 50 4e 47"),
        "bad magic": (gzip.compress(b"\1" + raw[1:]), "it starts with 01 00 08 01"),
        "bad type": (gzip.compress(raw[:2] + b"\x0a" + raw[3:]), "it starts with 00 00 0a 01"),
        "short header": (gzip.compress(raw[:6]), "not an idx file"),
        "short": (gzip.compress(raw[:-3]), r"has 65 bytes unpacked, expected 68 .*\(60,\)"),
        "long": (gzip.compress(raw + b"x"), "has 69 bytes unpacked, expected 68"),
        "truncated": (zipped[:-10], "truncated or damaged gzip"),
        "flipped in the gzip": (zipped[:20] + bytes([zipped[20] ^ 255]) + zipped[21:], "gzip|SHA"),
        "flipped": (gzip.compress(flipped), f"SHA-256 {digest(flipped)}, expected {digest(raw)}"),
    }[kind]


KINDS = (
    "empty", "png", "bad magic", "bad type", "short header", "short", "long", "truncated",
    "flipped in the gzip", "flipped",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_idx_files_are_named(tmp_path, kind):
    raw = idx(np.arange(60, dtype=np.uint8))
    contents, message = corrupted(raw, kind)
    path = tmp_path / "labels.gz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        mnist.read_idx(path, sha256=digest(raw))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_registered_addresses_are_those_that_tfds_has_for_its_own_mnist():
    table = importlib.resources.files("tensorflow_datasets") / "url_checksums" / "mnist.txt"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    expected = {url: (int(size), sha256, name) for url, size, sha256, name in rows}
    infos = mnist.builder().url_infos.items()
    assert expected == {url: (info.size, info.checksum, info.filename) for url, info in infos}


def test_files_in_place_are_prepared_and_read(data, tmp_path):
    for split, num_examples in (("train", 12), ("test", 5)):
        direct = mnist.arrays(split)
        assert direct["image"].shape == (num_examples, 28, 28, 1)
        through_tfds = pipeline.in_memory(mnist.source(split, tmp_path / "cache"))
        for name in ("image", "label"):
            np.testing.assert_array_equal(through_tfds[name], direct[name])
            assert through_tfds[name].dtype == direct[name].dtype


def test_another_compression_of_the_same_contents_is_accepted(data):
    expected = mnist.arrays("test")
    for path in data.iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=7))
    np.testing.assert_array_equal(mnist.arrays("test")["image"], expected["image"])


@pytest.mark.parametrize("open_split", [mnist.source, mnist.arrays])
def test_a_damaged_file_is_named_and_nothing_is_prepared(data, tmp_path, open_split):
    path = data / "train-labels-idx1-ubyte.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(ValueError, match=f"{path} unpacks to SHA-256 .*, expected "):
        open_split("train", tmp_path / "cache")
    assert not list(tmp_path.glob("cache/mnist/*"))


@pytest.mark.parametrize("open_split", [mnist.source, mnist.arrays])
def test_an_incomplete_folder_names_the_missing_file(data, tmp_path, open_split):
    (data / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"'mnist' is incomplete: {data}/t10k-images"):
        open_split("train", tmp_path / "cache")


def test_unknown_splits_are_named(data, tmp_path):
    for open_split in (mnist.source, mnist.arrays):
        with pytest.raises(ValueError, match=r"\['test', 'train'\], not 'valid'"):
            open_split("valid", tmp_path / "cache")


@pytest.fixture
def server(data, monkeypatch):
    """Serves the small set on the loopback; nothing under ANSATZ_DATA any more."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(data))
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http_server.server_address[1]}/"
    monkeypatch.setattr(mnist, "ADDRESS", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ANSATZ_DATA")
    yield data
    http_server.shutdown()
    http_server.server_close()


def test_tfds_downloads_what_is_registered(server, tmp_path):
    arrays = mnist.arrays("train", tmp_path / "cache")
    images = mnist.read_idx(server / "train-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(arrays["image"][..., 0], images)


def test_a_download_of_another_file_is_refused(server, tmp_path):
    path = server / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=7))
    message = "download of data set 'mnist' failed: .*wrong checksum.*Expected"
    with pytest.raises(ValueError, match=message) as caught:
        mnist.source("train", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/mnist/*"))


def test_without_files_or_network_the_error_is_quick_and_clear(tmp_path, monkeypatch):
    """An address that never answers, as behind a firewall that drops packets."""
    monkeypatch.setattr(sources, "_PROBE_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tfds_download = "tensorflow_datasets.download.DownloadManager.download"  # tries for minutes
    monkeypatch.setattr(tfds_download, lambda *args: pytest.fail("TFDS was asked to download"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(mnist, "ADDRESS", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(FileNotFoundError) as caught:
            mnist.source("train", tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'mnist'", f"ANSATZ_DATA={tmp_path}", "127.0.0.1", "out of reach", *mnist.FILES):
        assert part in message


def test_real_mnist(ansatz_data, monkeypatch):
    monkeypatch.setenv("ANSATZ_DATA", str(ansatz_data))
    train, test = mnist.arrays("train"), mnist.arrays("test")
    assert train["image"].shape == (60_000, 28, 28, 1)
    assert test["image"].shape == (10_000, 28, 28, 1)
    pixels = train["image"].astype(np.float64) / 255
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (0.1307, 0.3081)
    assert np.bincount(train["label"])[[0, 1, 5]].tolist() == [5923, 6742, 5421]
    # Prepared once per checkout: later runs only read it.
    source = mnist.source("test", PREPARED)
    assert len(source) == 10_000
    some = np.random.default_rng(0).permutation(10_000)[:2000]
    read = pipeline.take(source, some)
    for name in ("image", "label"):
        np.testing.assert_array_equal(read[name], test[name][some])
