"""A model hub on loopback, which answers as the real one does as far as loading a checkpoint goes, errors included.

Headers and sentences are those that huggingface_hub reads (utils/_http.py, hf_raise_for_status) and that users have
pasted into public issues. What it says depends on its fields, which a test sets; `requests` is what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
OLD = "0ld".replace("l", "1") + "d" * 37
GATED = "Access to model {repo} is restricted. You must have access to it and be authenticated to access it. Please log in."
NOT_ACCEPTED = "Access to model {repo} is restricted and you are not in the authorized list. Visit {page} to ask for access."
FINE_GRAINED = "Please enable access to public gated repositories in your fine-grained token settings to view this repository."


@dataclass
class Hub:
    """One repository, and who may see it. tokens: token to what it may do: "accepted", "plain" or "fine-grained"."""

    repo: str
    folder: Path
    gated: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    fail: int = 0  # answer everything with this status
    fail_files: int = 0  # answer downloads only with this status
    cut: dict[str, list[int]] = field(default_factory=dict)  # file: break off after so many bytes, once for each entry
    short: set[str] = field(default_factory=set)  # files that end early, with a Content-Length to match
    damaged: set[str] = field(default_factory=set)  # files served with a byte changed
    wrong_size: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    endpoint: str = ""

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def downloads(self) -> list[str]:
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


def etag(name: str, content: bytes) -> str:
    if name.endswith(".safetensors") or name.endswith(".bin"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range", "")))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if hub.fail:
            return self.refuse(hub.fail, "", "Internal Error - We're working hard to fix this as soon as possible!")
        if token and token not in hub.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self.say({"name": "researcher", "type": "user", "auth": {}})
        parts = path.removeprefix("/api/models/").lstrip("/").split("/")
        if "/".join(parts[:2]) != hub.repo:
            # Whether it exists is not told to strangers: they get a 401.
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if path.startswith("/api/models/"):
            return self.api(parts[2:], token)
        return self.file(parts[3], "/".join(parts[4:]), token)

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
        content = self.hub.content(name)
        size, tag = len(content), etag(name, content)
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": tag}
        if len(tag) == 64:
            entry |= {"oid": tag[:40], "lfs": {"oid": tag, "size": size, "pointerSize": 134}}
        return entry

    def closed(self, token: str) -> bool:
        """Whether a gated file was refused, as the real hub refuses it."""
        hub = self.hub
        may = hub.tokens.get(token, "")
        if not hub.gated or may == "accepted":
            return False
        if not token:
            self.refuse(401, "GatedRepo", GATED.format(repo=hub.repo))
        elif may == "fine-grained":
            self.refuse(403, "", FINE_GRAINED)
        else:
            self.refuse(403, "GatedRepo", NOT_ACCEPTED.format(repo=hub.repo, page=f"https://huggingface.co/{hub.repo}"))
        return True

    def file(self, revision: str, name: str, token: str) -> None:
        hub = self.hub
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in hub.names():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if self.closed(token):
            return None
        if hub.fail_files:
            return self.refuse(hub.fail_files, "", "Internal Error")
        content = hub.content(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(name, content)}"', "Accept-Ranges": "bytes"}
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers["X-Linked-Size"] = str(len(content))
        if self.command == "GET" and name in hub.short:
            content = content[: len(content) // 2]
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = content[first:]
        self.send_response(206 if first else 200)
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if hub.cut.get(name):
            self.wfile.write(body[: hub.cut[name].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None

    def say(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("X-Request-Id", "Root=1-stand-in")
        self.send_header("Content-Length", str(len(body)))
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
