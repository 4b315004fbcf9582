"""The words that the command is given, and what it prints: nothing here knows what a command does.

run(app, ["doctor", "--offline"])                  # ends with SystemExit, as a command does
>>> values(["fps", "[6, 12]", "image", "cat"])
{'fps': [6, 12], 'image': 'cat'}
"""

import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import typer

from svdlab import errors
from svdlab.errors import InputError, SvdlabError, one_line


def values(words: list[str] | None, texts: Iterable[str] = ()) -> dict[str, Any]:
    """`-p` words as a dict: the keys in `texts` as they are, everything else read as YAML.

    >>> values(["seed", "007", "name", "007"], texts=["name"])
    {'seed': '007', 'name': '007'}
    """
    from svdlab.study.notebooks import read_value

    words, found = words or [], dict[str, Any]()
    if len(words) % 2:  # -pfps, --parameter=fps=12
        raise InputError(f"-p {words[-1]}: it takes two words, a parameter and its value, as in  -p fps 12.")
    for key, word in zip(words[::2], words[1::2], strict=True):
        if key in found:
            raise InputError(f"-p {key} is given twice: give it once.")
        found[key] = word if key in texts else read_value(word)
    return found


def _paired(arguments: list[str]) -> list[str]:
    """`-p key value` as two options: typer has none that takes two words and may be repeated. No other word may be empty."""
    if odd := next((word for word in arguments if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in word)), None):
        raise InputError(f"{odd[:80]!r}: a word of the command is UTF-8, and has no NUL byte.")
    paired: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("-p", "--parameter"):
            key, value = next(words, None), next(words, None)
            if key is None or value is None:
                raise InputError(f"{word} takes two words: a parameter and its value, as in  -p fps 12.")
            paired += [f"--parameter={key}", f"--parameter={value}"]  # so that a value may begin with a minus
        elif not word or (word.startswith("--") and word.endswith("=")):  # of a variable that is not set
            raise InputError(f"an empty word after {['svdlab', *paired][-1]}: give a value, or leave it out.")
        else:
            paired.append(word)
    return paired


def say(*things: Any) -> None:
    """Print each, its lines made plain one by one: names of files and recorded texts are other people's."""
    for line in "\n".join(map(str, things)).split("\n"):
        typer.echo(one_line(line))


def folder(value: Path | None) -> Path | None:
    """An --out that was given, as a folder that can be written to: a callback of typer's."""
    return None if value is None else errors.folder("--out", value)


def file(value: Path | None) -> Path | None:
    """The same for an --out that is a file."""
    if value is None:
        return None
    found = errors.path("--out", value)
    errors.folder("--out", found.parent)
    if found.exists() and not found.is_file():
        raise InputError(f"--out {found} is a folder or a device: give a file's name.")
    return found


def _in_flags(message: str, words: list[str]) -> str:
    """A message with the arguments that were given named as the command's words name them: fps=0 is -p fps 0."""
    flags = {w.split("=")[0][2:].replace("-", "_"): w.split("=")[0] for w in words if w.startswith("--")}
    keys = [w.removeprefix("--parameter=") for w in words if w.startswith("--parameter=")][::2]
    flags = {k: v for k, v in flags.items() if k != "parameter"} | {key: f"-p {key}" for key in keys if key.isidentifier()}
    for name, flag in flags.items():
        message = re.sub(rf"(?<![\w.']){name}='([^'\n]*)'(?=[\s,:;.)]|$)", rf"{flag} \1", message)  # the flag takes no quotes
        message = re.sub(rf"(?<![\w.']){name}=(?=[^\s.,)])", f"{flag} ", message)
        message = re.sub(rf"(?<![\w.']){name}=", flag, message)
    return re.sub(r"(?<!\S)(--[a-z][a-z-]*)=(?=\S)", r"\1 ", message)


@cache
def _command(app: typer.Typer) -> Any:
    return typer.main.get_command(app)


def run(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run the command. What it cannot take is one line on stderr, without a traceback: exit 2 where no command could be made
    of the words, 1 for svdlab's own errors, 130 where it was interrupted."""
    usage: Any = typer.BadParameter.__base__  # UsageError, which typer does not export
    words: list[str] = []
    try:
        words = _paired(sys.argv[1:] if arguments is None else arguments)
        command = _command(app)
        with command.make_context("svdlab", words) as context:
            command.invoke(context)
    except typer.Exit as done:
        raise SystemExit(done.exit_code) from None
    except usage as error:
        empty = type(error).__name__ == "NoArgsIsHelpError"  # its message is the help
        text = error.format_message() if empty else " ".join(error.format_message().split())
        where = "" if empty or not error.ctx else f" See `{error.ctx.command_path} --help`."
        print(text if empty else f"svdlab: {one_line(text)}{where}", file=sys.stderr)
        raise SystemExit(2) from None
    except SvdlabError as error:
        print(f"svdlab: {one_line(_in_flags(str(error), words))}", file=sys.stderr)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    except KeyboardInterrupt:
        print("svdlab: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `svdlab doctor | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    raise SystemExit(0)
