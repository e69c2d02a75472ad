"""Downloads from a server of the test's own: checked before they are kept, and possible by hand."""

import http.server
import threading
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

import fingerprint
from facepoison.cli import app
from facepoison.errors import InputError
from facepoison.extractors import catalog, formats
from facepoison.extractors.catalog import catalogue, find_entry, load_extractor
from facepoison.extractors.downloads import fetch

TABLE = """
[theirs]
year = 2019
paper = "A paper"
architecture = "iResNet18 of InsightFace"
kind = "other"
format = "iresnet"
file = "theirs.pt"
address = "ADDRESS"
bytes = BYTES
sha256 = "HASH"
licence = "MIT"
source = "the page of its authors"
embedding = 512
differentiable = true
size = 112
colour = "RGB"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
alignment = "arcface"
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word; what is named cut.pt ends before its length."""

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[:-10] if self.path.endswith("cut.pt") else data)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served, its address, and the cache of downloads beside it."""
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "WIDTHS", (4, 4, 8, 8))
    (tmp_path / "served").mkdir()
    handler = partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield tmp_path / "served", f"http://127.0.0.1:{running.server_port}", tmp_path / "cache"
        running.shutdown()
        thread.join()


@pytest.fixture
def theirs(server, tmp_path):
    """Makes a catalogue of an extractor that is served, with what changes of it given."""
    folder, address, _ = server
    state = formats.flat_iresnet(18).state_dict()
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        folder / "theirs.pt",
    )

    def write(**changes):
        path = folder / "theirs.pt"
        fields = {"ADDRESS": f"{address}/theirs.pt", "BYTES": path.stat().st_size, "HASH": fingerprint.of_file(path)}
        text = TABLE
        for key, value in (fields | changes).items():
            text = text.replace(key, str(value))
        (tmp_path / "catalog.toml").write_text(text)
        catalog._read.cache_clear()
        return tmp_path / "catalog.toml"

    return write


def test_a_download_is_kept_and_loads(server, theirs):
    folder, _, cache = server
    file = theirs()
    with pytest.raises(InputError, match=r"give the folder that holds theirs\.pt, or run 'python -m facepoison fetch"):
        load_extractor("theirs", "cpu", file=file)
    got = fetch("theirs", file)
    assert (got.path, got.new, got.verified) == (cache / "theirs.pt", True, True)
    assert got.path.read_bytes() == (folder / "theirs.pt").read_bytes()
    assert load_extractor("theirs", "cpu", file=file).sha256 == got.sha256
    assert load_extractor("theirs", "cpu", folder / "empty", file).sha256 == got.sha256
    (folder / "theirs.pt").unlink()
    assert not fetch("theirs", file).new  # no second download


def test_a_given_folder_comes_before_the_cache(server, theirs):
    folder, _, cache = server
    file = theirs()
    fetch("theirs", file)
    assert catalog.locate(find_entry("theirs", file), folder) == folder / "theirs.pt"
    (folder / "theirs.pt").unlink()
    assert catalog.locate(find_entry("theirs", file), folder) == cache / "theirs.pt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "what lies there is cut short"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "what lies there is not the file that the catalogue names"),
        (lambda data: b"<!DOCTYPE html><title>Sign in</title>" + data, "what lies there is a web page"),
    ],
)
def test_what_is_wrong_never_gets_its_name(server, theirs, damage, message):
    folder, _, cache = server
    file = theirs()
    (folder / "theirs.pt").write_bytes(damage((folder / "theirs.pt").read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        fetch("theirs", file)
    assert "\n" not in str(caught.value)
    assert not any(cache.iterdir())


def test_an_answer_that_breaks_off(server, theirs):
    folder, address, cache = server
    file = theirs(ADDRESS=f"{address}/cut.pt", BYTES=0, HASH="")
    (folder / "cut.pt").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="broke off after 990 of 1000 bytes"):
        fetch("theirs", file)
    assert not any(cache.iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [("/none.pt", "is answered with 404 File not found"), ("", "cannot be reached")],
)
def test_without_network_it_says_how_to_do_it_by_hand(server, theirs, path, message):
    _, address, cache = server
    file = theirs(ADDRESS=address + path if path else "http://127.0.0.1:9/theirs.pt")
    with pytest.raises(InputError, match=message) as caught:
        fetch("theirs", file)
    entry = find_entry("theirs", file)
    assert str(caught.value).endswith(f"get {entry.address} by hand and put it at {cache / 'theirs.pt'}")
    assert "\n" not in str(caught.value)


def test_an_unverified_one_is_kept_but_refused_until_its_hash_is_filled_in(server, theirs):
    folder, _, _ = server
    file = theirs(BYTES=0, HASH="")
    for place in (None, folder):
        with pytest.raises(InputError, match=r"'theirs' is unverified.*fetch theirs' and write the size and hash"):
            load_extractor("theirs", "cpu", place, file)
    got = fetch("theirs", file)
    assert not got.verified
    with pytest.raises(InputError, match="is unverified"):
        load_extractor("theirs", "cpu", file=file)
    file = theirs(BYTES=got.bytes, HASH=got.sha256)
    assert load_extractor("theirs", "cpu", file=file).sha256 == got.sha256


def test_without_an_address_a_file_put_there_by_hand_is_found(server, theirs):
    folder, _, cache = server
    file = theirs(ADDRESS="")
    with pytest.raises(InputError, match=r"has no address: get it by hand \(the page of its authors\) and put it at"):
        fetch("theirs", file)
    cache.mkdir()
    (cache / "theirs.pt").write_bytes((folder / "theirs.pt").read_bytes())
    assert not fetch("theirs", file).new
    (cache / "theirs.pt").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"theirs\.pt: is cut short.*, and delete this one"):
        fetch("theirs", file)
    assert (cache / "theirs.pt").read_bytes() == b"something else"


def test_other_addresses_than_of_the_web_are_refused(theirs):
    with pytest.raises(InputError, match="the catalogue cannot be read"):
        catalogue(theirs(ADDRESS="file:///etc/passwd"))


def test_the_command_prints_the_hash(server, theirs, monkeypatch):
    file = theirs(BYTES=0, HASH="")
    entry = find_entry("theirs", file)
    monkeypatch.setattr("facepoison.extractors.downloads.find_entry", lambda name, file: entry)
    result = CliRunner().invoke(app, ["fetch", "theirs"])
    assert result.exit_code == 0, result.output
    assert fingerprint.of_file(server[0] / "theirs.pt") in result.stdout
    assert "theirs is unverified" in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "error: extractor 'resnet' is unknown: use one of arcface_2019"),
        ("arcface_2019", "error: extractor 'arcface_2019' is the project's own: there is nothing to fetch"),
        ("magface_iresnet100_2021", "error: extractor 'magface_iresnet100_2021' has no address: get it by hand"),
    ],
)
def test_the_command_ends_on_bad_input_in_one_line_and_code_2(server, name, message):
    result = CliRunner().invoke(app, ["fetch", name])
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
