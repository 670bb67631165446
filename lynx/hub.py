"""The only module that talks to the Hub. Downloads are pinned to a commit and lie in the Hub's local cache.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and the token of `hf auth login` are huggingface_hub's to read.
Offline, or while the Hub cannot be reached, what the cache holds is used.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, ModelCardData, errors
from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode

from lynx import compat
from lynx.config import amount, read_json_object
from lynx.errors import AdapterError, writing

logger = logging.getLogger(__name__)

InvalidField = errors.StrictDataclassError
"""What transformers raises of a configuration with a value of another type."""

CACHE = str(HF_HUB_CACHE)
"""Folder of the Hub's cache."""

RECORD = "lynx_source.json"
"""Name of the file in which `place` records where a folder's files come from, and their digests."""

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REVISION = re.compile(r"\w[\w./+-]*")


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, in the local cache; `files` names all it has, downloaded or not."""

    repo: str
    revision: str | None  # as the caller gave it
    commit: str
    folder: Path
    files: tuple[str, ...]


def parse_id(text: str) -> tuple[str, str | None] | None:
    """("owner/name", revision or None) of "owner/name" or "owner/name@revision"; None for anything else.

    huggingface_hub looks a revision up as a file of its cache, so one that leads out of the cache is refused.
    """
    repo, _, revision = text.partition("@")
    named = not revision or (_REVISION.fullmatch(revision) and ".." not in revision)
    return (repo, revision or None) if _ID.fullmatch(repo) and named else None


def download(
    source: str, names: Sequence[str], revision: str | None = None, max_bytes: int | None = None
) -> Snapshot:
    """Download the files called `names` of a repository, at the commit that its revision is now.

    source: "owner/name" or "owner/name@revision"; `revision` (a branch, tag or commit) wins over the latter.
    max_bytes: of these files together, asked of the Hub before any is fetched; None for no limit.
    Raises: AdapterError: no such repository or revision, private, too large, or neither reachable nor cached.
    """
    parsed = parse_id(source)
    if parsed is None:
        raise AdapterError(f"{source!r} is no Hub id: expected owner/name, or owner/name@revision")
    repo, revision = parsed[0], revision or parsed[1]
    with _explained(repo, revision, f"the Hub could not give {repo!r}"):
        reachable = max_bytes is None or _measured(repo, revision, names, max_bytes)
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=list(names), local_files_only=not reachable
            )
        )
    commit = folder.name  # the cache's layout: see `compat.cached_snapshot`
    try:
        files = tuple(file.path for file in huggingface_hub.get_cached_repo_tree(repo, revision=commit))
    except errors.CachedRepoTreeNotFoundError:  # put into the cache by an older huggingface_hub
        files = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    logger.info("%s at commit %s: %s", repo, commit, folder)
    return Snapshot(repo, revision, commit, folder, files)


def _measured(repo: str, revision: str | None, names: Sequence[str], max_bytes: int) -> bool:
    """Whether the Hub can be asked how large these files are. Raises: AdapterError: more than the most."""
    try:  # one request; a listing of the repository is tried again for half a minute where nobody answers
        files = huggingface_hub.HfApi().get_paths_info(repo, list(names), revision=revision)
    except errors.HfHubHTTPError:  # an answer, and a refusal
        raise
    except (errors.HTTPError, ConnectionError):
        return False
    size = sum(getattr(file, "size", 0) for file in files)
    if size > max_bytes:
        found, most = amount(size, "bytes"), amount(max_bytes, "bytes")
        raise AdapterError(f"{repo!r} has {found} on the Hub: at most {most} of an adapter are fetched here")
    return True


def place(snapshot: Snapshot, folder: Path, names: Sequence[str]) -> None:
    """Copy those of `names` that a snapshot has into `folder`, and record there where they come from.

    A folder filled earlier from the same repository is updated; the user's own files stay. Raises:
    AdapterError: the folder holds something else, was changed since, or cannot be written.
    """
    # Not `snapshot_download(local_dir=...)`: it would ask the Hub again for every file of a snapshot that is
    # in the cache and checked, it does not work offline, and when interrupted it leaves old files with new.
    old = read_record(folder)
    before: dict[str, str] = old["files"] if old is not None else {}
    if folder.is_dir() and any(folder.iterdir()):
        if old is None or old["repo"] != snapshot.repo:
            problem = f"{folder} is there already and was not pulled from {snapshot.repo!r}"
            raise AdapterError(f"{problem}: give another folder")
        there = [name for name in before if (folder / name).is_file()]
        if changed := [name for name in there if _digest(folder / name) != before[name]]:
            problem = f"{folder} was changed since it was pulled ({', '.join(changed)})"
            raise AdapterError(f"{problem}: give another folder")
    with writing(folder, AdapterError):
        names = [name for name in names if (snapshot.folder / name).is_file()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as partial:
            for name in names:
                (Path(partial) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(snapshot.folder / name, Path(partial) / name)
            record = {key: getattr(snapshot, key) for key in ("repo", "revision", "commit")}
            record["files"] = {name: _digest(Path(partial) / name) for name in names}
            (Path(partial) / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            # nothing was touched so far; from here on files are only renamed and removed
            for name in before.keys() - set(names):
                (folder / name).unlink(missing_ok=True)
            for name in [*names, RECORD]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(partial) / name, folder / name)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record that `place` left in a folder; None where there is none, or it is not valid."""
    try:
        record = read_json_object(folder / RECORD)
    except AdapterError:
        return None
    repo, commit, files = (record.get(key) for key in ("repo", "commit", "files"))
    good = isinstance(repo, str) and _ID.fullmatch(repo) and isinstance(commit, str) and commit.isprintable()
    if not (good and isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())):
        return None
    root = folder.resolve()  # the record may come from a stranger, and `place` removes the files it names
    return record if all((folder / name).resolve().is_relative_to(root) for name in files) else None


def origin(folder: Path, file: str) -> str | None:
    """Where a folder was downloaded from, "owner/name@commit" or "commit"; None once `file` was changed.

    It may have been filled by `place`, by `hf download --local-dir`, or be a snapshot in the cache.
    """
    path = folder / file
    if record := read_record(folder):
        same = path.is_file() and record["files"].get(file) == _digest(path)
        return f"{record['repo']}@{record['commit']}" if same else None
    if cached := compat.cached_snapshot(folder.resolve()):
        return "@".join(cached)
    noted = compat.local_download(folder, file)
    if noted is None or not path.is_file():
        return None
    content = path.read_bytes()  # the ETag of a small file is git's hash of its content
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return noted[0] if noted[1] == blob else None


def model_card(fields: Mapping[str, Any], text: str) -> str:
    """A README for the Hub. fields: what the Hub filters by, such as license and tags; text: Markdown."""
    return str(ModelCard(f"---\n{ModelCardData(**fields).to_yaml()}\n---\n{text}"))


def upload(
    repo: str, files: Mapping[str, Path | bytes], owned: Sequence[str], message: str, private: bool = False
) -> str:
    """Put `files` into a repository in one commit, and return the commit.

    The repository is created where there is none. owned: names that are deleted there when not in `files`.
    Raises: AdapterError: not logged in, no right to write, or public though `private` was asked for.
    """
    api = huggingface_hub.HfApi()
    with _explained(repo, None, f"the Hub did not take {repo!r}"):
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        if private and not info.private:
            raise AdapterError(f"{repo!r} exists already and is public: make it private there, or rename")
        there = {file.rfilename for file in info.siblings or ()}
        gone = [name for name in owned if name in there and name not in files]
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in gone]
        done = api.create_commit(repo, operations, commit_message=message, parent_commit=info.sha)
    return str(done.oid)


@contextmanager
def _explained(repo: str, revision: str | None, failed: str) -> Iterator[None]:
    """Turn errors of huggingface_hub inside the `with` into one AdapterError that says what to do."""
    try:
        yield
    except AdapterError:
        raise
    except (errors.HTTPError, errors.EntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        if isinstance(error, errors.RevisionNotFoundError):
            asked = repr(revision or "main")
            reason = f"it has no revision {asked}: give a branch, tag or commit that it has, or none"
        elif isinstance(error, errors.RepositoryNotFoundError) or status == HTTPStatus.UNAUTHORIZED:
            reason = "there is none of that id, or it is private or gated: check the id, or log in"
            reason += " (hf auth login)"
        elif status == HTTPStatus.FORBIDDEN:
            reason = f"the token may not do that in {repo!r}: log in with one that may (hf auth login)"
        elif isinstance(error, errors.IncompleteSnapshotError):
            reason = "it cannot be reached, and the cache holds only a part: download it again with a network"
        elif is_offline_mode():
            reason = "offline (HF_HUB_OFFLINE), and that revision is not in the cache: "
            reason += f"download it with a network (hf download {repo})"
        elif isinstance(error, errors.LocalEntryNotFoundError | errors.HTTPError) and status is None:
            reason = "it cannot be reached, and the cache does not have it: check the id and the network"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason if len(reason) < 300 else reason[:300] + " ..."
        raise AdapterError(f"{failed}: {reason}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
