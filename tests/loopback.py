"""A small HTTP server on this machine, and on it as much of the Hugging Face Hub as its library asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Answer:
    """What the server answers at a path; a body shorter than `length` is half a file."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


class Server:
    """Answers by path, and keeps what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(f"{self.command} {self.path.partition('?')[0]}")
                answer = server.answers.get(self.path.partition("?")[0], Answer(b"not here", 404))
                self.send_response(answer.status)
                headers = {"Content-Length": str(len(answer.body) if answer.length is None else answer.length)}
                for name, value in (headers | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def serve_file(self, path: str, body: bytes) -> str:
        """Serve a file; return its URL."""
        self.answers[path] = Answer(body)
        return self.url + path

    def serve_repository(self, repo: str, files: dict[str, bytes], licence: str = "apache-2.0") -> None:
        """Serve a model repository of the Hub at COMMIT, which is its main branch; weights are large files."""
        described = [self._described(name, body) for name, body in files.items()]
        info = {"id": repo, "sha": COMMIT, "siblings": described, "cardData": {"license": licence}}
        for path in (f"/api/models/{repo}", *(f"/api/models/{repo}/revision/{r}" for r in ("main", COMMIT))):
            self.answers[path] = Answer(json.dumps(info).encode(), headers={"Content-Type": "application/json"})
        for name, body in files.items():
            for revision in ("main", COMMIT):
                self.answers[f"/{repo}/resolve/{revision}/{name}"] = Answer(body, headers=hub_headers(name, body))

    @staticmethod
    def _described(name: str, body: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": hashlib.sha1(body).hexdigest()}
        if is_large(name):
            about["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return about


def is_large(name: str) -> bool:
    return not name.endswith((".json", ".md"))


def hub_headers(name: str, body: bytes) -> dict[str, str]:
    """The headers by which the Hub describes a file."""
    digest = hashlib.sha256(body) if is_large(name) else hashlib.sha1(body)
    return {"X-Repo-Commit": COMMIT, "ETag": f'"{digest.hexdigest()}"'}


def missing(code: str, status: int = 404) -> Answer:
    """The Hub's answer for what it does not have: RepoNotFound, RevisionNotFound, EntryNotFound or GatedRepo."""
    return Answer(b"", status, {"X-Error-Code": code, "X-Error-Message": code})
