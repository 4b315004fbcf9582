"""Hashes of large files, remembered until the file changes, and the names in a folder.

>>> sha256("unet/diffusion_pytorch_model.safetensors")
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import suppress
from pathlib import Path

REMEMBERED = 32 * 2**20  # bytes from which on a hash is worth remembering: a tenth of a second to read
_MUTEX = threading.Lock()


def names_in(folder: str | Path) -> list[str]:
    """All files below a folder, as sorted relative names with slashes; links that lead nowhere are left out."""
    folder = Path(folder)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def sha256(path: str | Path) -> str:
    """The file's sha256. Of large files it is remembered, by path, size and time of change, in a file of the user's cache."""
    path = Path(path).resolve()
    facts = path.stat()
    key = f"{path}|{facts.st_size}|{facts.st_mtime_ns}"
    if facts.st_size >= REMEMBERED and (known := _known().get(key)):
        return known
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if facts.st_size >= REMEMBERED:
        _remember(key, digest)
    return digest


def _store() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "svdlab" / "sha256.json"


def _known() -> dict[str, str]:
    try:
        content = json.loads(_store().read_text())
        return {str(k): str(v) for k, v in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(key: str, digest: str) -> None:
    """Best effort: a cache that cannot be written costs time only."""
    path = key.split("|")[0]
    with _MUTEX, suppress(OSError):
        kept = {k: v for k, v in _known().items() if k.split("|")[0] != path and os.path.exists(k.split("|")[0])}
        store = _store()
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.with_name(f".{store.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**kept, key: digest}))
        os.replace(temporary, store)
