"""A small Hub on 127.0.0.1: the endpoints that huggingface_hub and `hf` use for models, kept in memory.

Written from the client's requests: revisions, trees, files with ETag and Range, LFS and regular uploads,
private repositories, and connections that are cut.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"
READER = "hf_of_somebody_else"
LFS = (".safetensors", ".bin")

Files = dict[str, bytes]


def git_blob(content: bytes) -> str:
    """The ETag of a regular file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(name: str, content: bytes) -> str:
    """The ETag of any file: of a large one its sha256."""
    return hashlib.sha256(content).hexdigest() if name.endswith(LFS) else git_blob(content)


@dataclass
class Repo:
    """A repository: its commits, oldest first, and names for some of them."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, message: str = "") -> str:
        """Make `files` the content of main."""
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha], self.refs["main"] = dict(files), sha
        self.messages.append(message)
        return sha

    @property
    def files(self) -> Files:
        """The content of main."""
        return self.commits[self.refs["main"]]


class Hub:
    """The server's state, and what a test can do to it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: Files = {}  # large files by sha256
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.lost: set[str] = set()  # files that the tree lists and nobody can get
        self.cut: Counter[str] = Counter()  # how many times the connection breaks in the middle of a file
        self.url = ""

    def add(self, repo: str, files: Files, private: bool = False) -> str:
        """A repository, or another commit of one; returns the commit."""
        self.repos.setdefault(repo, Repo(private)).private = private
        return self.repos[repo].commit(files)

    def gets(self, name: str) -> list[str | None]:
        """The Range of every GET of a file."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests read `hub.requests`."""

    def reply(self, status: int, content: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send JSON, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str, message: str) -> None:
        """An error as the Hub tells it."""
        self.reply(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def handle_request(self) -> None:
        """Find who answers a request."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                answer(self, **match.groupdict())
                return
        self.fail(404, "NoRoute", f"{self.command} {path} is not part of this Hub")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def token(self) -> str:
        """The token that came with the request."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def repo(self, name: str) -> Repo | None:
        """A repository that this client may see; otherwise the client has been told."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token() != TOKEN):
            self.fail(401 if not self.token() else 404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def revision(self, name: str, revision: str) -> tuple[str, Files] | None:
        """A commit and its files; otherwise the client has been told."""
        repo = self.repo(name)
        if repo is None:
            return None
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return sha, repo.commits[sha]


def info(handler: Handler, repo: str, revision: str = "main") -> None:
    found = handler.revision(repo, revision)
    if found:
        siblings = [{"rfilename": name} for name in found[1]]
        told = {"id": repo, "modelId": repo, "sha": found[0], "private": handler.hub.repos[repo].private}
        handler.reply(200, told | {"siblings": siblings, "tags": []})


def tree(handler: Handler, repo: str, revision: str) -> None:
    found = handler.revision(repo, revision)
    entries = []
    for name, content in found[1].items() if found else ():
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_blob(content)}
        if name.endswith(LFS):
            entry["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 130}
        entries.append(entry)
    if found:
        handler.reply(200, entries)


def resolve(handler: Handler, repo: str, revision: str, name: str) -> None:
    found, hub = handler.revision(repo, revision), handler.hub
    if not found:
        return
    if name not in found[1] or name in hub.lost:
        handler.fail(404, "EntryNotFound", "Entry not found")
        return
    content = found[1][name]
    headers = {"ETag": f'"{etag(name, content)}"', "X-Repo-Commit": found[0], "Accept-Ranges": "bytes"}
    span = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    start = int(span[1]) if span else 0
    if span:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    if handler.command == "GET" and hub.cut[name] > 0:
        hub.cut[name] -= 1
        break_off(handler, content[start:], 206 if span else 200, headers)
        return
    handler.reply(206 if span else 200, content[start:], headers)


def break_off(handler: Handler, content: bytes, status: int, headers: Mapping[str, str]) -> None:
    """Promise all of `content`, send half of it, and hang up."""
    handler.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(content))}.items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def create(handler: Handler) -> None:
    asked = json.loads(handler.body)
    name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
    if handler.token() != TOKEN:
        handler.fail(401 if not handler.token() else 403, "", "You may not create that")
    elif name in handler.hub.repos:
        message = "You already created this model repo"
        told = {"error": message, "url": f"{handler.hub.url}/{name}"}
        handler.reply(409, told, {"X-Error-Message": message})
    else:
        handler.hub.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        handler.reply(200, {"url": f"{handler.hub.url}/{name}", "name": name})


def writable(handler: Handler, repo: str) -> Repo | None:
    """A repository that this client may write to; otherwise the client has been told."""
    found = handler.repo(repo)
    if found and handler.token() != TOKEN:
        handler.fail(403, "", "You may not write there")
        return None
    return found


def preupload(handler: Handler, repo: str, revision: str) -> None:
    found = writable(handler, repo)
    if found:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(handler.body)["files"]
        ]
        handler.reply(200, {"files": files})


def lfs_batch(handler: Handler, repo: str) -> None:
    if writable(handler, repo):
        objects = [
            {
                **item,
                "actions": {"upload": {"href": f"{handler.hub.url}/lfs/{item['oid']}"}},
            }
            for item in json.loads(handler.body)["objects"]
        ]
        handler.reply(200, {"transfer": "basic", "objects": objects})


def lfs_put(handler: Handler, oid: str) -> None:
    if hashlib.sha256(handler.body).hexdigest() != oid:
        handler.fail(400, "", "the content is not what its name says")
        return
    handler.hub.objects[oid] = handler.body
    handler.reply(200)


def commit(handler: Handler, repo: str, revision: str) -> None:
    found = writable(handler, repo)
    if not found:
        return
    files, lines = dict(found.files), [json.loads(line) for line in handler.body.splitlines()]
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    header = lines[0]["value"]
    if header.get("parentCommit") not in (None, found.refs["main"]):
        handler.fail(412, "", "the branch has moved on")
        return
    sha = found.commit(files, header["summary"])
    url = f"{handler.hub.url}/{repo}/commit/{sha}"
    handler.reply(200, {"success": True, "commitOid": sha, "commitUrl": url})


def validate_yaml(handler: Handler) -> None:
    handler.reply(200, {"errors": [], "warnings": []})


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    ("GET", rf"/api/models/{REPO}", info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>.+)", info),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", tree),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", resolve),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", commit),
)


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub that runs as long as the `with`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
