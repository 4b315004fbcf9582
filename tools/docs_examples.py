"""Docstrings as Markdown, for the site: examples become code blocks, and `name: text` a list of parameters.

svdlab's docstrings are written for `help()` and run as doctests. mkdocs.yml names this file as an extension of griffe.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

PARAMETER = re.compile(r"(?:^|(?<=[.;] ))(\w+)(?=: \S)")


def as_markdown(text: str, parameters: set[str]) -> str:
    """The same text, with fences around examples and a list item for each parameter.

    >>> print(as_markdown("Double it. x: a number. y: another.", {"x", "y"}))
    Double it.
    - `x`: a number.
    - `y`: another.
    """
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith(">>>") and not fenced:
            lines += ["", "```python"]
            fenced = True
        if fenced and not line.strip():
            lines.append("```")
            fenced = False
        if not fenced:
            line = PARAMETER.sub(lambda found: f"\n- `{found[1]}`" if found[1] in parameters else found[0], line)
            if line.startswith("\n") and lines and (not lines[-1] or lines[-1].startswith("- ")):
                line = line[1:]
        lines += [part.rstrip() for part in line.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "```"] if fenced else lines))


class Examples(griffe.Extension):
    """Applied to every docstring that the site shows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            own = {p.name for p in obj.parameters} if isinstance(obj, griffe.Function) else set(obj.members)
            obj.docstring.value = as_markdown(obj.docstring.value, own)
