"""Files and cells: write a file whole or not at all, hash it, and turn a table's cell into a plain Python value.

>>> with write_whole("results/table.csv") as part:       # part: a Path of the same name in a private folder
...     _ = part.write_text("a,b")
>>> len(hash_file("results/table.csv")), plain(np.float32(0.5))
(64, 0.5)
"""

import errno
import getpass
import hashlib
import json
import math
import os
import platform
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import errors
from svdlab.errors import OutputError, takes

# What a terminal obeys (ECMA-48): control sequences; strings such as titles and links, up to their end; other escapes.
ANSI = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]*[0-~]?"
)
FOLDERS = re.compile(r"(?:file:/*)?(?:~[\w.-]*|(?:[A-Za-z]:)?[\\/]+[^\\/]+)[\\/]+[^\\/]")  # how an absolute path begins
# The folders of an absolute path inside a text, up to its name: in quotes they may hold spaces.
ROOT = r"(?:file:/*|[A-Za-z]:[\\/]+|~[\w.-]*[\\/]|/(?!/)|\\\\)"
QUOTED = re.compile(
    rf"(?:(?<=['\"])|(?<=&#3[49];)|(?<=&quot;)){ROOT}[^&'\"\n<>]*[\\/](?=[^\\/'\"\n<>&]+(?:['\"]|&#3[49];|&quot;))"
)
BARE = re.compile(rf"(?:(?<![\w/\\.~<])|(?<=\dm)){ROOT}(?:(?<=~/)|[^\\/\s'\"<>|:;,()&]+[\\/]+)+(?=[^\\/\s'\"<>|:;,()&])")
BASE64 = re.compile(r"(;base64,[\w+/=\s]+)")
ORDINARY = ("root", "user", "admin", "guest", "runner", "ubuntu", "debian", "jovyan", "nobody", "localhost", "host", "model")
ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060]")
HIDDEN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")  # controls, direction marks


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well, and leaves nothing when it does not.

    >>> with write_whole("figure.png") as part:
    ...     show.filmstrip(clip).savefig(part)

    The part has the target's own name, because many writers choose the format by the suffix. It lies in a new folder beside it
    that only this user can enter, of a name that cannot be guessed, so that no planted link is followed. It is synced to disk
    before it replaces the target. Raises OutputError where the disk refuses.
    """
    target = errors.path("path", path)
    if (target.exists() and not target.is_file()) or target.parent == Path("/dev"):  # os.replace would put a file there
        raise OutputError(f"{target} cannot be written: it is a folder or a device. Give a file's name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    try:
        part = folder / target.name
        yield part
        sync(part)
        os.replace(part, target)
        sync(target.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """What was written to a file or a folder is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@takes(path=errors.path)
def hash_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


@takes(facts=errors.kind(Mapping))
def hash_facts(facts: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order: 24 hex digits, the form of a run's id.

    >>> hash_facts({"fps": 7, "seed": 0}) == hash_facts({"seed": 0, "fps": 7})
    True
    """
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def read_file(path: str | os.PathLike[str], most: int, *, follow: bool = True) -> bytes:
    """The bytes of a file; ValueError where it has more than `most`, of which no more are read.

    >>> _ = Path("facts.json").write_text('{"fps": 7}')
    >>> read_file("facts.json", 100)
    b'{"fps": 7}'

    Raises OSError for a pipe or a device, which may have no end, and for a link unless `follow`.
    """
    if not stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{Path(path).name} is larger than {most} bytes")
    return data


def read_json(path: str | os.PathLike[str], most: int = 2**24, *, follow: bool = True) -> Any:
    """What a JSON file holds, read by `read_file`; ValueError where it is none, or too deep.

    >>> _ = Path("facts.json").write_text('{"fps": 7}')
    >>> read_json("facts.json")
    {'fps': 7}
    """
    try:
        return json.loads(read_file(path, most, follow=follow))
    except RecursionError:
        raise ValueError(f"{Path(path).name} is nested too deep") from None


def plain(value: Any) -> Any:
    """A table's cell as JSON holds it: values and arrays of numpy, pandas and torch become Python's, NaN None, the rest text.

    >>> plain(np.array([1.0, np.nan])), plain((1, "a")), plain(Path("a/b"))
    ([1.0, None], [1, 'a'], 'a/b')
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return whole_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(getattr(value, "__qualname__", value))  # a function's name


def whole_text(text: str) -> str:
    """Text as UTF-8 can hold it: half a surrogate pair, of a file's name in another encoding, becomes U+FFFD.

    >>> whole_text("a" + chr(0xDCFF)) == "a" + chr(0xFFFD)
    True
    """
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: Any, *, lines: bool = False) -> str:
    """A recorded text as it may be drawn, written or printed: without control characters and what steers a terminal.

    >>> printable("a \\x1b[31mred\\x1b[0m label\\n\\x07of two lines")
    'a red label of two lines'

    One line; `lines` keeps line breaks and tabs. Marks that turn the direction of reading go too: with them a text looks like
    another one. What is no character (half a surrogate pair, from a file's name in another encoding) becomes U+FFFD.
    """
    text = ANSI.sub("", str(text))
    text = "\n".join(text.splitlines()) if lines else " ".join(text.split())
    return whole_text(HIDDEN.sub("", text))


def file_name(value: Any) -> Any:
    """Of an absolute path in a folder its name, as what is exported gives it: the folders say who and where. Else the value.

    >>> file_name("/home/ada/photos/cat.png"), file_name("owner/model")
    ('cat.png', 'owner/model')
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not FOLDERS.match(text):
        return value
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def exported(value: Any) -> Any:
    """What is written for others to read, without this machine: of an absolute path its name, no user's or host's name.

    >>> exported("no file '/home/ada/my photos/cat.png' (of /data/set/dog.png)"), exported({"image": Path("/a/cat.png")})
    ("no file 'cat.png' (of dog.png)", {'image': 'cat.png'})

    Texts, and those inside dicts and lists. Names of images, videos and other data as base64 stay. A name that is an ordinary
    word (root, user), or has fewer than four letters, goes where it can be nothing else (bob@host, USER=bob, /home/bob):
    elsewhere it would be found in other words' place.
    """
    names = {platform.node(), socket.gethostname(), os.environ.get("HOSTNAME", "")}
    names |= {name.split(".")[0] for name in names} | {os.environ.get("USER", ""), os.environ.get("LOGNAME", "")}
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        names.add(getpass.getuser())
    names -= {""}
    wanted = sorted((n for n in names if len(n) > 3 and n.lower() not in ORDINARY), key=len, reverse=True)
    every, long = ("|".join(map(re.escape, some)) or "(?!)" for some in (names, wanted))
    who = re.compile(
        rf"(?<!\w)(?:{long})(?!\w)|(?<![\w.])(?:{every})(?=@)|(?<=\w@)(?:{every})(?!\w)"
        rf"|(?i:(?<=user=)|(?<=user: )|(?<=name=)|(?<=host=)|(?<=host: ))(?:{every})(?!\w)"
    )
    homes = {str(Path.home()), *(f"/{top}/{n}" for top in ("home", "Users") for n in names)} - {"/"}
    home = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, homes))})(?![\w.-])" if homes else r"(?!)")

    def text_of(text: str) -> str:
        text = whole_text(text)
        if text in wanted:  # a cell that is a name, such as an image's
            return text
        if (name := file_name(text)) != text and ": " not in text and "\n" not in text:
            return who.sub("...", name)
        parts = BASE64.split(text)
        parts[::2] = [who.sub("...", BARE.sub("", QUOTED.sub("", home.sub("~", part)))) for part in parts[::2]]
        return "".join(parts)

    def of(value: Any) -> Any:
        if isinstance(value, (str, os.PathLike)):
            return text_of(os.fspath(value))
        if isinstance(value, Mapping):  # of a notebook's output, an image is base64
            return {k: v if re.match(r"(image|video|audio)/(?!svg)", str(k)) else of(v) for k, v in value.items()}
        return type(value)(map(of, value)) if type(value) in (list, tuple) else value

    if isinstance(value, pd.DataFrame):
        columns = [place for place, kind in enumerate(value.dtypes) if kind.kind not in "biufcmM"]
        value = value.copy()
        for place in columns:
            value.isetitem(place, value.iloc[:, place].astype(object).map(of))
        return value
    return of(value)


def csv_text(table: Any) -> str:
    """A DataFrame as CSV without its index, `exported`, in which no text is a formula: what a spreadsheet would run gets an
    apostrophe.

    >>> csv_text(pd.DataFrame({"label": ["=cmd|' /C calc'!A0", "-1.5", "fine"], "x": [-1.0, 2.0, np.nan]})).splitlines()
    ['label,x', "'=cmd|' /C calc'!A0,-1.0", '-1.5,2.0', 'fine,']
    """

    def inert(value: Any) -> Any:
        if pd.api.types.is_scalar(value) and not isinstance(value, str):
            return value
        text = str(value).replace("\r\n", "\n").replace("\r", "\n")  # pandas does not quote \r, which would end a row
        bare = ZERO_WIDTH.sub("", printable(text)).lstrip()  # what a spreadsheet does not see
        if not text.startswith(("\t", "\n")) and not bare.startswith(tuple("=+-@＝＋－＠﹦﹢﹣﹫")):
            return text
        try:
            float(text)
        except ValueError:
            return f"'{text}"
        return text  # a number

    safe = exported(table.rename(columns=file_name)).rename(columns=inert)
    for place, kind in enumerate(safe.dtypes):
        if kind.kind not in "biufcmM":
            safe.isetitem(place, safe.iloc[:, place].astype(object).map(inert))
    return str(safe.to_csv(index=False))
