"""A file at a URL with its SHA-256."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Answer, Server

import edcompress
from edcompress.core.errors import WeightsError
from edcompress.core.recipe.weights_name import weights_name
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.networks.sources import https

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edcompress" / "weights"


@pytest.fixture
def url(server: Server, dense: Path) -> str:
    """The URL of weights of the digits recipe."""
    body = dense.read_bytes()
    return f"{server.serve_file('/files/dense.safetensors', body)}#sha256={hashlib.sha256(body).hexdigest()}"


def fetch(url: str) -> Path:
    name = weights_name(url)
    assert name
    return https.find(name).fetch(NullMonitor()).path


def test_a_command_takes_a_url_and_downloads_it_once(
    cli: Cli, quick: Callable[..., tuple[str, ...]], url: str, dense: Path, server: Server, cache: Path
) -> None:
    by_file = cli("evaluate", dense, *quick(), "--json")
    first, second = (cli("evaluate", url, *quick(), "--json") for _ in range(2))
    assert first.code == 0, first.err
    assert first.out == second.out == by_file.out
    said = first.err.replace("\n", "")  # lines are wrapped
    digest = hashlib.sha256(dense.read_bytes()).hexdigest()
    assert (
        f"{digest[:16]}-dense.safetensors, size unknown, licence: not stated by the source; fetching {server.url}/files"
        in said
    )
    assert "fetching" not in second.err
    assert server.asked == ["GET /files/dense.safetensors"]
    assert [file.name for file in cache.iterdir()] == [f"{digest[:16]}-dense.safetensors"]


def test_python_takes_a_url(url: str, dense: Path) -> None:
    recipe, options = edcompress.read_recipe("digits"), RunOptions("cpu", monitor=NullMonitor())
    assert edcompress.evaluate(url, recipe, options) == edcompress.evaluate(dense, recipe, options)


def test_without_a_checksum_a_url_is_refused(cli: Cli, server: Server) -> None:
    url = server.serve_file("/a.pt", b"abc")
    for given, says in (
        (url, "append #sha256= and its 64 hex digits"),
        (f"{url}#sha256=abc", "(got 'sha256=abc')"),
        (f"{url}#md5={'a' * 32}", "append #sha256="),
    ):
        refused = cli("inspect", given, "-r", "digits")
        assert refused.code == 2
        assert says in refused.err
    assert server.asked == []


@pytest.mark.parametrize(
    "url", ["http://example.com/a.pt", "http://192.168.0.1/a.pt", "http://127.0.0.1.example.com/a.pt"]
)
def test_plain_http_is_for_this_machine_alone(cli: Cli, url: str) -> None:
    refused = cli("inspect", f"{url}#sha256={'a' * 64}", "-r", "digits")
    assert refused.code == 2
    assert "is not encrypted; give an https URL" in refused.err


def test_a_redirect_to_plain_http_is_refused(server: Server) -> None:
    server.answers["/a.pt"] = Answer(status=302, headers={"Location": f"{server.url}/b.pt"})
    server.serve_file("/b.pt", b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert fetch(f"{server.url}/a.pt#sha256={digest}").read_bytes() == b"abc"  # to this machine itself


@pytest.mark.parametrize("url", ["https://", "https://host", "https:///a.pt", "https://host/folder/"])
def test_a_url_without_a_file_is_refused(cli: Cli, url: str) -> None:
    refused = cli("inspect", f"{url}#sha256={'a' * 64}", "-r", "digits")
    assert refused.code == 2
    assert "is not the URL of a file" in refused.err


def test_secrets_of_a_url_are_not_shown(server: Server) -> None:
    for url, says in (
        (f"{server.url}/a.pt?token=secret", "answers 404"),
        (server.url.replace("http://", "http://me:secret@") + "/a.pt", "a user and a password in the URL are not sent"),
    ):
        with pytest.raises(WeightsError, match=says) as failed:
            fetch(f"{url}#sha256={'a' * 64}")
        assert "secret" not in str(failed.value)
        name = weights_name(f"{url}#sha256={'a' * 64}")
        assert name
        assert name.shown == f"{server.url}/a.pt#sha256={'a' * 64}"


class TestFaults:
    """Each leaves nothing behind."""

    def refused(self, url: str, cache: Path, cli: Cli) -> str:
        outcome = cli("inspect", url, "-r", "digits")
        assert outcome.code == 2
        assert not cache.exists() or list(cache.iterdir()) == []
        return str(outcome.err)

    def test_404(self, cli: Cli, server: Server, cache: Path) -> None:
        says = self.refused(f"{server.url}/gone.pt#sha256={'a' * 64}", cache, cli)
        assert f"{server.url}/gone.pt answers 404 Not Found; check the address" in says

    def test_a_server_in_trouble(self, cli: Cli, server: Server, cache: Path) -> None:
        server.answers["/a.pt"] = Answer(status=503)
        assert "try again later" in self.refused(f"{server.url}/a.pt#sha256={'a' * 64}", cache, cli)

    def test_a_wrong_checksum(self, cli: Cli, url: str, cache: Path, dense: Path) -> None:
        says = self.refused(url.partition("#")[0] + f"#sha256={'a' * 64}", cache, cli)
        assert f"has the SHA-256 {hashlib.sha256(dense.read_bytes()).hexdigest()}, not {'a' * 64}" in says

    def test_half_a_file(self, cli: Cli, url: str, cache: Path, dense: Path, server: Server) -> None:
        body = dense.read_bytes()
        server.answers["/files/dense.safetensors"] = Answer(body[: len(body) // 2], length=len(body))
        says = self.refused(url, cache, cli)
        assert "only a part of the file arrived" in says
        assert "nothing of it was kept, try again" in says
        server.serve_file("/files/dense.safetensors", body)
        assert fetch(url).read_bytes() == body

    def test_no_connection(self, cli: Cli, url: str, cache: Path) -> None:
        unused = url.replace(url.split("/")[2], "127.0.0.1:9")  # the discard port, on which nothing listens
        says = self.refused(unused, cache, cli)
        assert "cannot be reached (" in says
        assert "it is" in says
        assert "-dense.safetensors (size unknown) at http://127.0.0.1:9/files/dense.safetensors" in says
        assert f"put it at {cache}/" in says


def test_a_file_in_the_cache_needs_no_connection(cli: Cli, dense: Path, cache: Path) -> None:
    body = dense.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    cache.mkdir(parents=True)
    (cache / f"{digest[:16]}-dense.safetensors").write_bytes(body)
    assert cli("inspect", f"https://127.0.0.1:9/dense.safetensors#sha256={digest}", "-r", "digits").code == 0


def test_a_damaged_file_in_the_cache_is_refused_and_stays(cli: Cli, dense: Path, cache: Path) -> None:
    digest = hashlib.sha256(dense.read_bytes()).hexdigest()
    cache.mkdir(parents=True)
    damaged = cache / f"{digest[:16]}-dense.safetensors"
    damaged.write_bytes(b"other bytes")
    refused = cli("inspect", f"https://127.0.0.1:9/dense.safetensors#sha256={digest}", "-r", "digits")
    assert refused.code == 2
    assert f"{damaged} is damaged or a different file" in refused.err
    assert "delete it to download it again" in refused.err
    assert damaged.read_bytes() == b"other bytes"


def test_a_disk_without_room_is_an_error_of_the_disk(url: str, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    with pytest.raises(edcompress.EdcompressError, match="cannot be written") as failed:
        fetch(url)
    assert failed.value.exit_code == 3
