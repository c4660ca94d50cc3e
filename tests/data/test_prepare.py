"""Preparing, fetching and verifying data, on small files made here; nothing reaches the network."""

import gzip
import http.server
import shutil
import socket
import time

import numpy as np
import pytest
from data_files import CIFAR10_NAMES, as_tfrecords, error_line, serving

from normres import cli
from normres.data import Dataset, commands, load, prepared
from normres.errors import UserError


def small():
    random = np.random.default_rng(0)

    def split(count):
        labels = random.permutation(np.repeat(np.arange(10), count)).astype(np.int32)
        return random.integers(0, 256, (len(labels), 32, 32, 3)).astype(np.uint8), labels

    return Dataset("cifar10", "binary", *split(3), *split(1), tuple(CIFAR10_NAMES))


SMALL = small()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    to = tmp_path_factory.mktemp("data")
    prepared.write_tfds(SMALL, to / "cifar10" / prepared.VERSION)
    return to


def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy") / "cifar10" / prepared.VERSION


def test_what_is_written_comes_back_in_order(written):
    data = load("cifar10", "auto", str(written))
    # The official order is restored, so every source of the same pixels has one checksum.
    assert (data.sha256, data.class_names, data.source) == (SMALL.sha256, SMALL.class_names, "tfds")
    assert [path.name for path in written.iterdir()] == ["cifar10"]
    assert [path.name for path in (written / "cifar10").iterdir()] == [prepared.VERSION]
    # Other people's reader reads it too.
    read = prepared.tfds().data_source("cifar10", data_dir=str(written), download=False)
    examples = {bytes(example["id"]).decode(): example for example in read["train"]}
    assert len(examples) == 30
    np.testing.assert_array_equal(examples["train_00007"]["image"], SMALL.train_images[7])
    assert examples["train_00007"]["label"] == SMALL.train_labels[7]


def test_tfrecords_are_read_too(written, tmp_path):
    directory = copy(written, tmp_path)
    as_tfrecords(directory)
    data = load("cifar10", "tfds", str(directory))
    assert (data.sha256, data.why_streamed) == (SMALL.sha256, "")
    line = error_line("cifar10", "tfds", directory, stream="always")
    assert line == f"data.stream='always': {directory} has TFRecord shards; only ArrayRecord ones can be streamed"
    shard = next(directory.glob("cifar10-train.tfrecord*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole + whole)
    assert f"{shard.name}: has 60 records, dataset_info.json says 30" in error_line("cifar10", "tfds", directory)
    shard.write_bytes(whole[:-100])
    line = error_line("cifar10", "tfds", directory)
    assert f"{shard.name}: damaged after 29 of 30 records: it ends within a record" in line


def test_damage_is_named(written, tmp_path):
    directory = copy(written, tmp_path)
    shard = next(directory.glob("cifar10-train*"))
    whole = shard.read_bytes()
    # Within the records, of 3 kB each; the rest of the file's blocks is empty.
    for position in range(1000, 90_000, 4999):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        shard.write_bytes(flipped)
        assert f"{shard.name}: damaged after 0 of 30 records" in error_line("cifar10", "tfds", directory)
    shard.unlink()
    assert f"{shard.name}: damaged after 0 of 30 records" in error_line("cifar10", "tfds", directory)
    shard.write_bytes(whole[: len(whole) // 2])
    assert shard.name in error_line("cifar10", "tfds", directory)
    said = error_line("cifar10", "tfds", directory / "none").partition("no prepared data set there")[2]
    assert "normres data prepare cifar10" in said


def test_the_commands_prepare_and_verify(tmp_path, capsys):
    source, to = tmp_path / "small.npz", tmp_path / "data"
    arrays = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(source, **{name: getattr(SMALL, name) for name in arrays})
    prepare = ["data", "prepare", "cifar10", f"--from={source}", f"--to={to}"]
    assert cli.main(prepare) == 0
    assert "30 training and 10 test images" in capsys.readouterr().out
    assert cli.main(prepare) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["data", "verify", str(to)]) == 0
    assert f"sha256 {SMALL.sha256}: {to} is sound" in capsys.readouterr().out
    assert cli.main(["data", "verify", str(source)]) == 0
    assert f"{source} can be read, but has no checksums to compare" in capsys.readouterr().out


BODY = b"\x1f\x8b" + bytes(range(256)) * 4096
asked_ranges = []  # the ranges that were asked for


class Server(http.server.BaseHTTPRequestHandler):
    """Serves BODY with ranges, and cuts the first answer off in the middle."""

    def do_GET(self):
        asked = self.headers.get("Range")
        asked_ranges.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start : start + len(BODY) // 2] if not asked else BODY[start:])

    def log_message(self, *arguments):
        pass


def test_a_download_goes_on_where_it_was_cut_off(tmp_path):
    with serving(Server) as site:
        with pytest.raises(UserError, match=r"cut off at .* the same command goes on from there"):
            commands.download("cifar10", tmp_path, site)
        part = tmp_path / "cifar-10-binary.tar.gz.part"
        assert part.stat().st_size == len(BODY) // 2
        archive = commands.download("cifar10", tmp_path, site)
    assert archive.read_bytes() == BODY
    assert not part.exists()
    assert asked_ranges == [None, f"bytes={len(BODY) // 2}-"]
    assert commands.download("cifar10", tmp_path, "http://nowhere.invalid/") == archive


def test_a_page_in_place_of_the_archive_is_not_kept(tmp_path):
    class Portal(Server):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

    with serving(Portal) as site, pytest.raises(UserError, match=r"binary.tar.gz: what was sent is another kind"):
        commands.download("cifar10", tmp_path, site, site)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_network_is_said_at_once_with_the_offline_ways(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    started = time.monotonic()
    with pytest.raises(UserError, match=r"not reachable .* not reachable .*offline ways: --from FILE"):
        commands.download("cifar10", tmp_path, site, site)
    assert time.monotonic() - started < commands.FAST + 1


def test_verify_claims_no_more_than_was_checked(written, tmp_path):
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32)

    def checked(name, source, path):
        return commands.has_checksums(Dataset(name, source, images, labels, images, labels, ("a", "b")), path)

    unpacked, packed, other = tmp_path / "x.tar", tmp_path / "x.tar.gz", copy(written, tmp_path)
    unpacked.write_bytes(b"a tar that somebody has unpacked")
    packed.write_bytes(gzip.compress(b""))
    as_tfrecords(other)
    for source, path in (("binary", tmp_path), ("python", tmp_path), ("parquet", tmp_path), ("tfds", written)):
        assert checked("cifar10", source, path)
    assert checked("cifar100", "python", tmp_path)
    # Of CIFAR-100's binary files no md5 is known, only that of the archive that they come in.
    assert checked("cifar100", "binary", packed)
    for source, path in (("binary", tmp_path), ("binary", unpacked), ("parquet", tmp_path)):
        assert not checked("cifar100", source, path)
    assert not checked("cifar10", "tfds", other)
