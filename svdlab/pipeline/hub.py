"""The model hub, by its own client: which files a checkpoint needs, where they lie once here, and what went wrong.

    >>> snapshot = fetch("stabilityai/stable-video-diffusion-img2vid-xt-1-1", choose=lambda names: names)
    >>> snapshot.folder, snapshot.commit

Everything goes through huggingface_hub, so its settings hold: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies.
What it raises is said again in one message: what happened, why, and the command or page that mends it. Those messages
are raised apart from the client's own errors, because their frames hold the request, and with it the token.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from svdlab.errors import CheckpointError

LOGIN = "`hf auth login`, or the environment variable HF_TOKEN"
TOKENS = "https://huggingface.co/settings/tokens"
TOKEN_LIKE = re.compile(r"(hf|api_org|hf_oauth)_[A-Za-z0-9_-]{6,}|(?i:bearer)\s+\S+")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


class StaleCheckpointWarning(UserWarning):
    """The hub could not be asked, and what lies in the cache is used."""


class Secret(str):
    """A token that no repr shows: not a debugger's, nor a traceback that prints variables."""

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's files on this disk. commit: what the revision stood for, 40 hex digits."""

    repo_id: str
    folder: Path
    commit: str


def fetch(
    repo_id: str,
    *,
    choose: Callable[[Sequence[str]], list[str]],
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Snapshot:
    """Have the chosen files of a repository in the cache; only those that are missing are downloaded.

    choose: from the names of all files, those that are needed; may raise CheckpointError, before anything is
    downloaded. Where the hub cannot be reached, or refuses, a complete cached copy serves, with a warning that names
    its commit. Raises CheckpointError otherwise; a broken or partial file never appears under its name.
    """
    token = Secret(token) if token is not None else None
    if local_files_only or constants.is_offline_mode():
        return _from_cache(repo_id, choose, revision, local_files_only)
    told, cached = "", None
    try:
        api = HfApi(token=token)
        info = api.model_info(repo_id, revision=revision)
        files = choose([f.rfilename for f in info.siblings or []])
        folder = snapshot_download(repo_id, revision=revision, token=token, allow_patterns=files)
        return Snapshot(repo_id, Path(folder), Path(folder).name)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the client raises: HTTP errors, timeouts, a full disk
        told = explain(error, repo_id, revision=revision, token=token)
        if not isinstance(error, (RevisionNotFoundError, HFValidationError)):
            cached = _cached_folder(repo_id, revision)
    if cached is not None:
        try:
            snapshot = _from_cache(repo_id, choose, revision, local_files_only=True)
        except CheckpointError:
            snapshot = None
        if snapshot is not None:
            warnings.warn(
                f"{told} Using the copy in the cache, commit {snapshot.commit}.", StaleCheckpointWarning, stacklevel=3
            )
            return snapshot
    raise CheckpointError(told)


def _cached_folder(repo_id: str, revision: str | None) -> Path | None:
    """The snapshot that lies in the cache for this revision, whole or not."""
    found = try_to_load_from_cache(repo_id, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _from_cache(
    repo_id: str, choose: Callable[[Sequence[str]], list[str]], revision: str | None, local_files_only: bool
) -> Snapshot:
    folder = _cached_folder(repo_id, revision)
    reason = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE is set"
    what = repo_id + (f" at revision {revision!r}" if revision else "")
    if folder is None:
        raise CheckpointError(
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and nothing is downloaded because {reason}. "
            f"Load it once with network access, or give the folder that it lies in."
        )
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    lacking = ""
    try:
        choose(names)
    except CheckpointError as error:
        lacking = str(error)
    if lacking:
        raise CheckpointError(
            f"{what} is incomplete in the cache ({folder}), and nothing is downloaded because {reason}. {lacking}"
        )
    return Snapshot(repo_id, folder, folder.name)


def verify(repo_id: str, *, revision: str | None = None, token: str | None = None) -> int:
    """Hold every cached file of a checkpoint against the checksum that the hub states; returns how many were checked.

    >>> verify("stabilityai/stable-video-diffusion-img2vid-xt-1-1")
    9

    A download checks sizes only. Files that do not match are removed from the cache, so that the next loading fetches
    them again, and CheckpointError names them.
    """
    token = Secret(token) if token is not None else None
    told = ""
    try:
        found = HfApi(token=token).verify_repo_checksums(repo_id, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        told = explain(error, repo_id, revision=revision, token=token)
    if told:
        raise CheckpointError(told)
    if not found.mismatches:
        return found.checked_count
    for mismatch in found.mismatches:
        path = found.verified_path / mismatch["path"]
        for link in (path.resolve(), _blob(path), path):  # a snapshot's links lead to blobs, which may be links themselves
            link.unlink(missing_ok=True)
    names = ", ".join(m["path"] for m in found.mismatches)
    raise CheckpointError(
        f"{repo_id}: {names} on this disk is not what the hub has: the checksum differs, so the file was damaged on its way "
        f"or on the disk. It was removed from the cache; load the checkpoint again to fetch it anew."
    )


def blob_sha256(path: Path) -> str | None:
    """The sha256 of a file in the hub's cache, by the name of its blob; None where the name says none."""
    name = _blob(path).name
    return name if path.is_symlink() and SHA256.fullmatch(name) else None


def _blob(path: Path) -> Path:
    """Where a snapshot's link leads, one step only: beyond that names are hashes of another kind."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def scrub(text: str, *tokens: str | None) -> str:
    """The text without tokens: those given, the one that is logged in, and whatever looks like one."""
    for token in {*tokens, get_token()}:
        if token:
            text = text.replace(str(token), "***")
    return TOKEN_LIKE.sub("***", text)


def explain(error: BaseException, repo_id: str, *, revision: str | None = None, token: str | None = None) -> str:
    """What the hub's client raised, as one message: what, why, and the command or page that mends it."""
    return scrub(_explain(error, repo_id, revision, bool(token or get_token())), token)


def _explain(error: BaseException, repo_id: str, revision: str | None, sent: bool) -> str:
    http = next((e for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)
    status = http.response.status_code if http is not None else None
    said = (http.server_message or http.response.headers.get("X-Error-Message") or "") if http is not None else ""
    page = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no hub id: they read 'owner/name' ({error})."
    if any(isinstance(e, OfflineModeIsEnabled) for e in _chain(error)):
        return f"{repo_id} is not in the cache, and HF_HUB_OFFLINE forbids asking the hub: unset it, or give a local folder."
    if isinstance(http, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see {page}/commits/main for those it has, or leave revision out."
    if isinstance(http, DisabledRepoError):
        return f"{repo_id} was disabled on the hub ({status}): see {page}."
    if isinstance(http, RemoteEntryNotFoundError):
        return f"{repo_id} lacks a file that it lists: {said or http}. See {page}/tree/main."
    if "Invalid credentials" in said or "Invalid user token" in said:
        return (
            f"the hub does not know the token that was sent (401, {said!r}): it was revoked, has expired or was mistyped. "
            f"Make one at {TOKENS} and give it by {LOGIN}, or token=."
        )
    if status == 403 and "fine-grained" in said:
        return (
            f"the token may not read gated repositories (403, {said!r}): edit it at {TOKENS} and tick 'Read access to "
            f"contents of all public gated repos you can access'."
        )
    if isinstance(http, GatedRepoError) and not (status == 401 and not sent):
        return (
            f"{repo_id} is gated, and the account that the token belongs to has not been given access ({status}). Open "
            f"{page}, read the licence there and accept it with that account, then load again. Access that was asked for "
            f"may be pending: the page says so."
        )
    if isinstance(http, GatedRepoError):
        return (
            f"{repo_id} is gated, and no token was sent (401). First accept its licence at {page}, then make a token with "
            f"read access at {TOKENS} and give it by {LOGIN}, or token=."
        )
    if isinstance(http, RepositoryNotFoundError) and status == 401:
        return (
            f"the hub does not show {repo_id} to anonymous callers (401): it does not exist, or it is private. Check the name "
            f"at {page}; if it is private, give a token by {LOGIN}, or token=."
        )
    if isinstance(http, RepositoryNotFoundError):
        return (
            f"the hub has no {repo_id} that this token may see ({status}): it does not exist, or it is private and belongs to "
            f"others. Check the name at {page}."
        )
    if status in (401, 403):
        return f"the hub refused {repo_id} ({status}{f', {said!r}' if said else ''}): check the token's rights at {TOKENS}."
    if status == 429:
        return f"the hub asks to slow down (429, {said or 'too many requests'}): wait some minutes, or send a token ({LOGIN})."
    if status is not None and status >= 500:
        return (
            f"the hub failed while {repo_id} was asked for ({status}): this is at its end. Try again later (see "
            f"https://status.huggingface.co); files that came whole are kept and will not be fetched again."
        )
    if "Consistency check failed" in str(error):
        return (
            f"a download of {repo_id} came with the wrong size, and was thrown away: {_first_line(error)} Load again; files "
            f"that came whole are kept. If it happens again, a proxy may be cutting downloads off."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"the disk is full: {repo_id} needs about 5 GB in half precision at {constants.HF_HUB_CACHE}. Make room, or set "
            f"HF_HOME to a larger disk."
        )
    network = [e for e in _chain(error) if type(e).__module__.startswith(("httpx", "httpcore")) and e is not http]
    if network or isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError)):
        why = f"{type(network[-1]).__name__}: {_first_line(network[-1])}" if network else _first_line(error)
        return (
            f"{repo_id} could not be downloaded from {constants.ENDPOINT}: the connection failed ({why}). Load again to go "
            f"on: files that came whole are kept. Behind a proxy, set HTTPS_PROXY; with files on disk, give their folder."
        )
    return f"{repo_id} could not be fetched: {type(error).__name__}: {_first_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the client's progress bars and warnings: for `doctor`, which says everything itself."""
    import logging

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def access(repo_id: str, token: str | None = None) -> tuple[bool, str]:
    """Whether this machine's token may download a repository, and in words why not.

    >>> access("stabilityai/stable-video-diffusion-img2vid-xt-1-1")
    (True, 'the licence was accepted')
    """
    token = Secret(token) if token is not None else None
    try:
        with quietly():
            HfApi(token=token).auth_check(repo_id)
    except Exception as error:
        return False, explain(error, repo_id, token=token)
    return True, "the licence was accepted"


def account(token: str | None = None) -> tuple[bool, str]:
    """Whether the hub knows the token, and the account's name or why not; never the token."""
    token = Secret(token) if token is not None else None
    if not (token or get_token()):
        return False, f"no token: give one by {LOGIN}"
    try:
        with quietly():
            who: dict[str, Any] = HfApi(token=token).whoami()
    except Exception as error:
        return False, explain(error, "the account", token=token)
    return True, f"logged in as {who.get('name', '?')}"


def digest(parts: Sequence[tuple[str, str]]) -> str:
    """One sha256 over names and file hashes, in the order given."""
    total = hashlib.sha256()
    for name, sha in parts:
        total.update(f"{name}\0{sha}\n".encode())
    return total.hexdigest()
