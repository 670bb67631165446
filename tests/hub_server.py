"""A small Hub on 127.0.0.1: what huggingface_hub asks for models, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OWNER, READER = "hf_of_the_owner", "hf_of_somebody_else"  # tokens


@dataclass
class Repo:
    """Its commits, and names for some of them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


class Refused(Exception):
    """Status, and the Hub's own code for what is wrong."""


class Hub:
    """The server's state, what a test can do to it, and the routes, which return JSON or bytes."""

    def __init__(self, url: str) -> None:
        self.url, self.repos = url, dict[str, Repo]()
        self.requests: list[tuple[str, str]] = []  # method, path
        self.lost: set[str] = set()  # files that are listed and cannot be had

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> str:
        """A repository, or another commit of one; returns the commit."""
        repo = self.repos.setdefault(name, Repo(private))
        sha = hashlib.sha1(repr((len(repo.commits), sorted(files))).encode()).hexdigest()
        repo.commits[sha], repo.refs["main"] = dict(files), sha
        return sha

    def fetched(self) -> set[str]:
        """The paths of all files that were fetched."""
        return {path for method, path in self.requests if method == "GET" and "/resolve/" in path}

    def find(self, token: str, name: str, revision: str = "main") -> tuple[str, dict[str, bytes]]:
        repo = self.repos.get(name)
        if repo is None or (repo.private and token != OWNER):
            raise Refused(404 if token else 401, "RepoNotFound")
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise Refused(404, "RevisionNotFound")
        return sha, repo.commits[sha]

    def info(self, token: str, body: bytes, repo: str, revision: str = "main") -> Any:
        sha, files = self.find(token, repo, revision)
        siblings = [{"rfilename": name} for name in files]
        return {"id": repo, "sha": sha, "private": self.repos[repo].private, "siblings": siblings, "tags": []}

    def tree(self, token: str, body: bytes, repo: str, revision: str) -> Any:
        files = self.find(token, repo, revision)[1].items()
        return [{"type": "file", "path": k, "size": len(v), "oid": git_blob(v)} for k, v in files]

    def paths(self, token: str, body: bytes, repo: str, revision: str) -> Any:
        asked = parse_qs(body.decode())["paths"]
        return [file for file in self.tree(token, body, repo, revision) if file["path"] in asked]

    def resolve(self, token: str, body: bytes, repo: str, revision: str, name: str) -> bytes:
        files = self.find(token, repo, revision)[1]
        if name not in files or name in self.lost:
            raise Refused(404, "EntryNotFound")
        return files[name]

    def write(self, token: str, body: bytes, action: str, repo: str = "") -> Any:
        """What `create_repo` and `create_commit` ask for."""
        if token != OWNER:
            raise Refused(403 if token else 401, "Forbidden")
        asked = [json.loads(line) for line in body.splitlines()]
        if action == "create":
            repo = f"{asked[0].get('organization') or 'owner'}/{asked[0]['name']}"
            if repo not in self.repos:
                self.add(repo, {".gitattributes": b""}, asked[0].get("visibility") == "private")
        elif action == "preupload":
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [plain | file for file in asked[0]["files"]]}
        elif action == "commit":
            files = dict(self.find(token, repo)[1])
            for key, value in ((line["key"], line["value"]) for line in asked):
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "deletedFile":
                    del files[value["path"]]
            sha = self.add(repo, files)
            return {"commitOid": sha, "commitUrl": f"{self.url}/{repo}/commit/{sha}"}
        return {"url": f"{self.url}/{repo}", "errors": [], "warnings": []}


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO, REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = {
    rf"/api/models/{REPO}(/revision/{REVISION})?": Hub.info,
    rf"/api/models/{REPO}/tree/{REVISION}": Hub.tree,
    rf"/api/models/{REPO}/paths-info/{REVISION}": Hub.paths,
    rf"/{REPO}/resolve/{REVISION}/(?P<name>.+)": Hub.resolve,
    rf"/api/models/{REPO}/(?P<action>preupload|commit)/main": Hub.write,
    r"/api/(repos/)?(?P<action>create|validate-yaml)": Hub.write,
}


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub that runs as long as the `with`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests read `hub.requests`."""

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, content, headers = 404, {}, {}
            for pattern, route in ROUTES.items():
                if match := re.fullmatch(pattern, path):
                    named = {key: value for key, value in match.groupdict().items() if value}
                    try:
                        status, content = 200, route(hub, token, body, **named)
                        if route is Hub.resolve:
                            headers = {"ETag": f'"{git_blob(content)}"', "X-Repo-Commit": named["revision"]}
                    except Refused as error:
                        status, headers = error.args[0], {"X-Error-Code": error.args[1]}
            reply = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(reply)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply)

        do_GET = do_HEAD = do_POST = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
