"""A module imports only from layers below its own, at its top or inside a function: read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "svdlab"
LAYERS = {
    "errors": 0,
    **dict.fromkeys(("measure", "stats", "organism"), 1),
    **dict.fromkeys(("show", "pipeline"), 2),
    "study": 3,
    "probes": 4,
    "widgets": 5,
    "__main__": 6,
}
FREE = ("__version__",)  # of the package itself


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first part of the path below svdlab, for every import statement in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "svdlab":
            names = [f"svdlab.{alias.name}" for alias in node.names if alias.name not in FREE]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}:{node.lineno}: a relative import")
        else:
            continue
        for name in names:
            if name.split(".")[0] == "svdlab":
                yield node.lineno, name.partition(".")[2].partition(".")[0]


def test_a_module_imports_only_from_layers_below() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = folder_of(path)
        for line, other in imports(path):
            if own in ("__init__", other):
                continue
            if other not in LAYERS or LAYERS[other] >= LAYERS[own]:
                upward.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports svdlab.{other}")
    assert not upward, "\n".join(upward)
