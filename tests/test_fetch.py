"""Downloading MNIST: from the first mirror that has it right, or not at all."""

import gzip
import hashlib
import http.server
import os
import sys
import threading
from functools import partial

import pytest
from idx_files import idx_bytes, mnist_arrays
from in_process import call

from gpumlp import cli
from gpumlp.data import fetch
from gpumlp.data.mnist import STEMS, load_mnist, mnist_folder
from gpumlp.errors import ConfigError

pytest.importorskip("pooch")
CONTENT = {stem: idx_bytes(array) for stem, array in mnist_arrays().items()}


class Mirrors:
    """Two mirrors at one local server: what each serves by path, and what was asked for."""

    def __init__(self):
        self.files = {
            f"/{mirror}/{stem}.gz": gzip.compress(content, level)
            for mirror, level in (("one", 9), ("two", 1))
            for stem, content in CONTENT.items()
        }
        self.asked = []

    def change(self, mirror, content, stems=STEMS):
        for stem in stems:
            self.files[f"/{mirror}/{stem}.gz"] = content


@pytest.fixture
def mirrors(monkeypatch):
    served = Mirrors()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path)
            content = served.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(fetch, "MIRRORS", (f"{base}/one/", f"{base}/two/"))
        monkeypatch.setattr(
            fetch, "MD5", {s: hashlib.md5(c).hexdigest() for s, c in CONTENT.items()}
        )
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def run(capsys):
    return partial(call, capsys, "fetch", "mnist")


def test_what_is_fetched_can_be_loaded(mirrors, run, tmp_path):
    folder = tmp_path / "new" / "größe"
    code, out, err = run("--to", folder)
    assert code == 0
    assert out == f"{folder}\n"
    assert err.count("downloading") == 4
    assert mirrors.asked == [f"/one/{stem}.gz" for stem in STEMS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{s}.gz" for s in STEMS)
    assert (load_mnist(str(folder))[0][0] == mnist_arrays()[STEMS[0]]).all()


def test_by_default_it_goes_to_where_training_looks(mirrors, run, tmp_path, monkeypatch):
    monkeypatch.setenv("GPUMLP_DATA", str(tmp_path / "data"))
    assert run()[:2] == (0, f"{tmp_path / 'data' / 'mnist'}\n")
    monkeypatch.delenv("GPUMLP_DATA")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run()[:2] == (0, f"{mnist_folder()}\n")
    assert len(load_mnist(None)[1][1]) == 3


def test_what_is_there_is_not_downloaded_again(mirrors, run, tmp_path):
    run("--to", tmp_path)
    mirrors.asked.clear()
    code, out, err = run("--to", tmp_path)
    assert code == 0
    assert out == f"{tmp_path}\n"
    assert "already" in err
    assert not mirrors.asked


def test_only_what_is_missing_is_downloaded(mirrors, run, tmp_path):
    """A file of the right content counts in any spelling."""
    for stem in STEMS[:2]:
        (tmp_path / stem.replace("-idx", ".idx")).write_bytes(CONTENT[stem])
    assert run("--to", tmp_path)[0] == 0
    assert mirrors.asked == [f"/one/{stem}.gz" for stem in STEMS[2:]]


def test_a_file_of_other_content_is_named_and_never_replaced(mirrors, run, tmp_path):
    mine = tmp_path / STEMS[0]
    mine.write_bytes(b"mine")
    code, out, err = run("--to", tmp_path)
    assert code == 3
    assert not out
    assert f"{mine}: wrong content" in err
    assert mine.read_bytes() == b"mine"
    assert not mirrors.asked


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"<html>log in first</html>",
        gzip.compress(b"other"),
        gzip.compress(CONTENT[STEMS[0]])[:-9],
        gzip.compress(CONTENT[STEMS[0]])[:-8] + bytes(8),
    ],
    ids=["missing", "empty", "html", "other", "truncated", "checksum"],
)
def test_the_second_mirror_is_tried_where_the_first_is_wrong(mirrors, run, tmp_path, content):
    mirrors.change("one", content, STEMS[:1])
    assert run("--to", tmp_path)[0] == 0
    assert mirrors.asked[:2] == [f"/one/{STEMS[0]}.gz", f"/two/{STEMS[0]}.gz"]
    assert len(load_mnist(str(tmp_path))[0][0]) == 7


@pytest.mark.parametrize("stem", [STEMS[0], STEMS[3]])
def test_wrong_content_everywhere_leaves_nothing_behind(mirrors, run, tmp_path, stem):
    mirrors.change("one", gzip.compress(b"other"), [stem])
    mirrors.change("two", b"other", [stem])
    code, out, err = run("--to", tmp_path / "new")
    assert code == 3
    assert not out
    assert err.count(f"{stem}.gz: wrong content") == 2
    assert not any(tmp_path.iterdir())


def test_every_mirror_that_did_not_answer_is_named_in_a_line(mirrors, run, tmp_path):
    mirrors.files.clear()
    code, _, err = run("--to", tmp_path / "new")
    assert code == 3
    lines = err.partition("no mirror gave")[2].splitlines()[1:]
    assert lines == [f"  {m}{STEMS[0]}.gz: the server answers 404 Not Found" for m in fetch.MIRRORS]
    assert not any(tmp_path.iterdir())


def test_without_a_network_every_mirror_is_named_in_a_short_line(run, tmp_path, monkeypatch):
    closed = ("http://127.0.0.1:1/", "http://[::1]:1/")
    monkeypatch.setattr(fetch, "MIRRORS", closed)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,::1")
    code, out, err = run("--to", tmp_path / "new")
    assert code == 3
    assert not out
    lines = err.partition("no mirror gave")[2].splitlines()[1:]
    assert lines == [f"  {mirror}{STEMS[0]}.gz: no connection" for mirror in closed]
    assert not any(tmp_path.iterdir())


def test_the_reasons_of_a_failed_download_are_a_few_words():
    import requests

    errors = requests.exceptions
    assert fetch._reason(errors.ConnectTimeout("long text")) == "no answer within 30 seconds"
    assert fetch._reason(errors.SSLError("long text")) == "no secure connection"
    assert fetch._reason(errors.ProxyError("long text")) == "no connection"
    assert fetch._reason(errors.ChunkedEncodingError("long text")) == "ChunkedEncodingError"


def test_a_folder_that_cannot_be_made_is_a_file_error(mirrors, run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("--to", tmp_path / "file" / "below")
    assert code == 6
    assert str(tmp_path / "file") in err
    code, _, err = run("--to", tmp_path / ("x" * 5000))
    assert code == 6
    assert "too long" in err


def test_without_pooch_the_line_that_installs_it_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    code, _, err = run("--to", tmp_path)
    assert code == ConfigError.exit_code
    assert 'pip install "gpumlp[fetch]"' in err


def test_another_data_set_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fetch", "imagenet"])
    assert stop.value.code == 2
    assert "mnist" in capsys.readouterr().err


def test_the_published_checksums_are_those_of_the_real_files(run):
    if not os.environ.get("GPUMLP_DATA") or not mnist_folder().is_dir():
        pytest.skip("set GPUMLP_DATA to a folder with MNIST in its subfolder mnist")
    code, out, err = run()
    assert code == 0
    assert out == f"{mnist_folder()}\n"
    assert "nothing to download" in err
