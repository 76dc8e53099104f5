"""Servers on this machine: one whose files break off and change, and a hub for HuggingFace's client."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from huggingface_hub import constants

from poly_agents.files import transfer

DATA = bytes(i * i % 251 for i in range(100_003))
DIGEST = hashlib.sha256(DATA).hexdigest()


class Files(BaseHTTPRequestHandler):
    """Answers `/KIND/REST` with `server.files[REST]`, or else with `server.data`. KIND says how it misbehaves.

    `data` behaves; `moved`, `gone`, `forbidden`, `busy` and `page` are answers that a server may give; `breaks`,
    `rangeless`, `short` and `slow` are ways to send a file. `server.asked` lists KIND and range of every request.
    """

    def do_GET(self):
        server, (kind, _, rest) = self.server, self.path.strip("/").partition("/")
        server.asked.append((kind, self.headers.get("Range")))
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/data")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind in ("gone", "forbidden"):
            self.send_error({"gone": 404, "forbidden": 403}[kind])
            return
        if kind == "busy" and len(server.asked) < 3:
            self.send_error(503)
            return
        data, start = server.files.get(rest, server.data), 0
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, server.etag)
        if span and same and kind != "rangeless":
            start = int(span[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "text/html" if kind == "page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        most = len(data)
        if kind in ("breaks", "rangeless") and len(server.asked) <= server.breaks:
            most = start + 30_011
        if kind == "short":  # always says more than it sends
            most = 40_009
        if kind == "slow":
            for at in range(start, len(data), 5000):
                self.wfile.write(data[at : at + 5000])
                self.wfile.flush()
                time.sleep(server.pause)
            return
        self.wfile.write(data[start : max(start, most)])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class Hub(BaseHTTPRequestHandler):
    """A hub with the routes that HuggingFace's client uses.

    `server.repos` maps ORG/NAME to file to bytes. A repository has one commit, a digest of its files.
    """

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, urlsplit(self.path).path
        server.asked.append((self.command, path))
        server.agents.add(self.headers.get("Authorization"))
        found = re.fullmatch(r"(/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path)
        files = server.repos.get(found[2]) if found else None
        if files is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        kind, revision, name = found[3], found[4], found[5]
        if revision not in ("main", commit(files)):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if kind == "revision":
            return self.answer(200, json.dumps({"id": found[2], "sha": commit(files)}).encode())
        if kind == "tree":
            return self.answer(200, json.dumps([entry(name, data) for name, data in files.items()]).encode())
        if name not in files:
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        data = server.damaged.get(name, files[name])
        headers = {"ETag": f'"{blob(name, files[name])}"', "X-Repo-Commit": commit(files)}
        return self.answer(200, data, headers | {"Accept-Ranges": "bytes"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server, path = self.server, urlsplit(self.path).path
        server.asked.append((self.command, path))
        server.agents.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer(401, b'{"error": "who are you?"}')
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            server.repos.setdefault(repo, {})
            return self.answer(200, json.dumps({"url": f"{server.url}/{repo}", "id": repo}).encode())
        if path == "/api/validate-yaml":
            return self.answer(200, b'{"errors": [], "warnings": []}')
        repo, kind = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if kind == "preupload":
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            modes = [{"path": file["path"], **regular} for file in json.loads(body)["files"]]
            return self.answer(200, json.dumps({"files": modes}).encode())
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = commit(server.repos[repo])
        return self.answer(
            200, json.dumps({"commitUrl": f"{server.url}/{repo}/commit/{oid}", "commitOid": oid}).encode()
        )

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def commit(files: dict[str, bytes]) -> str:
    """Return the commit of a repository."""
    return hashlib.sha1(
        repr(sorted((name, len(data), data[-64:]) for name, data in files.items())).encode()
    ).hexdigest()


def blob(name: str, data: bytes) -> str:
    """Return the name of a file on a hub: sha256 for large files, git's sha1 for others."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes) -> dict:
    """Describe a file as the hub does."""
    oid = blob(name, data)
    lfs = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 130}} if len(oid) == 64 else {}
    return {"type": "file", "path": name, "size": len(data), "oid": oid[:40], **lfs}


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **state) -> Iterator[ThreadingHTTPServer]:
    """Run a server in a thread, with `state` as its attributes and its address as `url`."""
    found = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(found).update(state, asked=[], url=f"http://127.0.0.1:{found.server_port}")
    found.handle_error = lambda *arguments: None  # a client that hangs up is what is tested
    threading.Thread(target=found.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()


@contextmanager
def serving_files(
    monkeypatch, data: bytes = DATA, breaks: int = 1, pause: float = 0.02
) -> Iterator[ThreadingHTTPServer]:
    """Run a server of files. Meanwhile transfers write small pieces, and try again at once."""
    monkeypatch.setattr(transfer, "PATIENCE", 0.001)
    monkeypatch.setattr(transfer, "PIECE", 4096)
    with serving(Files, data=data, files={}, breaks=breaks, etag='"one"', pause=pause) as found:
        yield found


@contextmanager
def serving_hub(monkeypatch, cache) -> Iterator[ThreadingHTTPServer]:
    """Run a hub and make HuggingFace's client use it. The client reads the environment only when it is imported."""
    with serving(Hub, repos={}, damaged={}, agents=set()) as found:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield found
