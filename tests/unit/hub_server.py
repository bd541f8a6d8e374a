"""What `huggingface_hub`'s client needs of the hub, on this machine: repositories, commits, LFS and files.

It follows the client's requests (huggingface_hub 2.4, without Xet), and holds one revision of each repository.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"
HEAD = "0" * 40
LFS = (".safetensors", ".parquet")


@dataclass
class Hub:
    """`repos`: by type and name, "models/org/name"; `commits`: the messages."""

    url: str = ""
    repos: dict[str, dict] = field(default_factory=dict)  # private, files
    stored: dict[str, bytes] = field(default_factory=dict)  # by LFS' sha256
    commits: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Status, and JSON or bytes."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            if name in self.repos:
                return 409, {"error": "You already created this repo", "url": f"{self.url}/{name}"}
            self.repos[name] = {"private": asked["visibility"] == "private", "files": {}}
            return 200, {"url": f"{self.url}/{name.removeprefix('models/')}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/lfs/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self.stored[found[1]] = body
            return 200, {}
        if found := re.fullmatch(r"/(datasets/)?([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            objects = [o | self._place(o["oid"]) for o in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if found := re.fullmatch(r"/(datasets/)?([\w-]+/[\w-]+)/resolve/\w+/(.+)", path):
            repo = self.repos.get(f"{found[1] or 'models/'}{found[2]}", {"files": {}})
            content = repo["files"].get(unquote(found[3]))
            return (404, {"error": "Entry not found"}) if content is None else (200, content)
        if found := re.fullmatch(r"/api/((?:models|datasets)/[\w-]+/[\w-]+)(/.*)?", path):
            if found[1] not in self.repos:
                return 404, {"error": "Repository not found"}
            return self._of_repo(found[1], (found[2] or "").split("/")[1:2], body)
        return 404, {"error": f"{method} {path}"}

    def _place(self, oid: str) -> dict:
        return {"actions": {"upload": {"href": f"{self.url}/lfs/{oid}"}}}

    def _of_repo(self, name: str, what: list[str], body: bytes) -> tuple[int, object]:
        repo = self.repos[name]
        if what == ["preupload"]:
            modes = [
                {"path": f["path"], "shouldIgnore": False}
                | {"uploadMode": "lfs" if f["path"].endswith(LFS) else "regular"}
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if what == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                self._commit(repo, line["key"], line["value"])
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{HEAD}", "commitOid": HEAD}
        listed = [
            {"type": "file", "path": path, "size": len(c), "oid": HEAD, "rfilename": path}
            for path, c in repo["files"].items()
        ]
        if what == ["tree"]:
            return 200, listed
        info = {"id": name.partition("/")[2], "private": repo["private"], "sha": HEAD}
        return 200, info | {"siblings": listed, "tags": []}

    def _commit(self, repo: dict, kind: str, value: dict) -> None:
        if kind == "header":
            self.commits.append(value["summary"])
        elif kind == "file":
            repo["files"][value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            repo["files"][value["path"]] = self.stored[value["oid"]]
        elif kind == "deletedFile":
            del repo["files"][value["path"]]


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    there = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/lfs/" not in path:
                status, said = 401, {"error": "Invalid username or password."}
            else:
                status, said = there.answer(self.command, path, body)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", HEAD)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            if status == 404:
                missing = "RepoNotFound" if "Repository" in str(said) else "EntryNotFound"
                self.send_header("X-Error-Code", missing)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
