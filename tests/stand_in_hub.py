"""A model hub on loopback, which answers as the real one does as far as loading a checkpoint goes, errors included.

Headers are those that huggingface_hub reads (utils/_http.py, hf_raise_for_status). What it says depends on its fields, which
a test sets; `requests` is what it was asked.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """One repository, and who may see it. tokens: token to what it may do: "accepted" or "plain"."""

    repo: str
    folder: Path
    gated: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    fail: int = 0  # answer everything with this status
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, path
    endpoint: str = ""

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def downloads(self) -> list[str]:
        files = [path.split("/resolve/")[1] for how, path in self.requests if how == "GET" and "/resolve/" in path]
        return [name.split("/", 1)[1] for name in files]


def etag(name: str, content: bytes) -> str:
    if name.endswith(".safetensors") or name.endswith(".bin"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if hub.fail:
            return self.refuse(hub.fail, "", "Internal Error - We're working hard to fix this as soon as possible!")
        if token and token not in hub.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        parts = path.removeprefix("/api/models/").lstrip("/").split("/")
        if "/".join(parts[:2]) != hub.repo:
            # Whether it exists is not told to strangers: they get a 401.
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if path.startswith("/api/models/"):
            return self.api(parts[2:], token)
        return self.file(parts[3], "/".join(parts[4:]), token)

    do_HEAD = do_GET

    def api(self, rest: list[str], token: str) -> None:
        hub = self.hub
        if rest == ["auth-check"]:
            return None if self.closed(token) else self.say({})
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        if rest and rest[0] == "tree":
            return self.say([self.entry(name) for name in hub.names()])
        siblings = [{"rfilename": name} for name in hub.names()]
        return self.say({"id": hub.repo, "sha": COMMIT, "gated": "auto" if hub.gated else False, "siblings": siblings})

    def entry(self, name: str) -> dict[str, Any]:
        content = (self.hub.folder / name).read_bytes()
        size, tag = len(content), etag(name, content)
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": tag}
        return entry | ({"oid": tag[:40], "lfs": {"oid": tag, "size": size, "pointerSize": 134}} if len(tag) == 64 else {})

    def closed(self, token: str) -> bool:
        """Whether a gated file was refused, as the real hub refuses it."""
        hub = self.hub
        may = hub.tokens.get(token, "")
        if not hub.gated or may == "accepted":
            return False
        self.refuse(403 if token else 401, "GatedRepo", f"Access to model {hub.repo} is restricted.")
        return True

    def file(self, revision: str, name: str, token: str) -> None:
        hub = self.hub
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in hub.names():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if self.closed(token):
            return None
        content = (hub.folder / name).read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(name, content)}"', "X-Linked-Size": str(len(content))}
        return self.send(200, headers, content)

    def say(self, content: Any) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Request-Id": "Root=1-stand-in"}
        self.send(status, {k: v for k, v in headers.items() if v}, json.dumps({"error": message}).encode())

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub at an address of its own, which goes into `hub.endpoint`."""
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def connect(hub: Hub, monkeypatch: Any, cache: Path) -> None:
    """Point this process's client at the hub, with an empty cache and nobody logged in."""
    url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    settings = dict(HF_HUB_OFFLINE=False, ENDPOINT=hub.endpoint, HUGGINGFACE_CO_URL_TEMPLATE=url)
    for name, value in (settings | dict(HF_HUB_CACHE=str(cache), HF_TOKEN_PATH=str(cache / "token"))).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.01)))  # the client's pauses between tries
