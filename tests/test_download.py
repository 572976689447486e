"""Fetching the Broden archive, from a server on this machine."""

import hashlib
import importlib.util
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT

from netdissect.broden import Broden
from util.cli import UserError


@pytest.fixture(scope="module")
def download():
    spec = importlib.util.spec_from_file_location("download", ROOT / "netdissect/dataset/download.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as context:
        context.setattr(sys, "path", ["", *sys.path])  # its first entry is replaced, as of a script
        spec.loader.exec_module(module)
    return module


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(broden, tmp_path_factory):
    """URL of a folder with tiny.zip, and its MD5."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(broden, folder / "tree" / "tiny")
    archive = shutil.make_archive(str(folder / "tiny"), "zip", folder / "tree")
    shutil.copy(archive, folder / "other.zip")
    (folder / "bad.zip").write_text("<html>moved</html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", hashlib.md5(Path(archive).read_bytes()).hexdigest()
        server.shutdown()


def test_fetch(download, server, tmp_path, broden, capsys):
    url, md5 = server
    (tmp_path / "tiny.zip").write_bytes(b"half of it")
    target = download.fetch("tiny", tmp_path, url, md5)
    assert len(Broden(target)) == len(Broden(broden))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    download.fetch("tiny", tmp_path, "http://127.0.0.1:1/", md5)  # nothing to do
    assert "already exists" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, md5, message",
    [
        ("tiny", "0" * 32, "corrupted"),
        ("gone", None, "404"),
        ("other", None, "no other/index.csv in it"),
        ("bad", None, "not a zip file"),
    ],
)
def test_another_archive_is_refused(download, server, tmp_path, name, md5, message):
    with pytest.raises(UserError, match=message):
        download.fetch(name, tmp_path, server[0], md5)
    assert not (tmp_path / name).exists()
