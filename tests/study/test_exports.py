"""What a report, an executed notebook and the page's cluster let others see (cases E5, E7), and notebooks that are none."""

import dataclasses
import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat import v4

import svdlab
from svdlab import probes, widgets
from svdlab.errors import InputError
from svdlab.probes import card
from svdlab.probes.running import Result
from svdlab.show.page import markdown
from svdlab.study import ledger, notebooks

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "marker"))
    (tmp_path / "marker").mkdir()
    return tmp_path / "marker"


@pytest.mark.parametrize("fails", [False, True])
def test_an_executed_notebook_names_no_folder(home: Path, fails: bool) -> None:
    work = "print(out)" + "\nopen(out + '/no-such')" * fails
    cells = [v4.new_code_cell("out: str = '.'", metadata={"tags": ["parameters"]}), v4.new_code_cell(work)]
    nbformat.write(v4.new_notebook(cells=cells, metadata=KERNEL), home / "own.ipynb")
    try:
        notebooks.run(home / "own.ipynb", home / "results", progress=False)
    except svdlab.errors.RunError:
        assert fails
    book = nbformat.read(home / "results" / "own.ipynb", 4)
    assert "marker" not in json.dumps(book) and book.metadata.papermill.input_path == "own.ipynb"
    assert "marker" not in notebooks.report(home / "results").read_text()


SPOILT = {
    "outputs": {"cells": [{"cell_type": "code", "metadata": {}, "source": "", "execution_count": None, "outputs": "x"}]},
    "cells": {"cells": {"a": 1}},
    "source": {"cells": [{"cell_type": "markdown", "metadata": {}, "source": 7}]},
    "format 3": {"nbformat": 3, "worksheets": []},
    "metadata": {"metadata": []},
    "minor": {"nbformat_minor": "x"},
}


@pytest.mark.parametrize("name", [*SPOILT, "deep", "list", "empty"])
def test_what_is_no_notebook_is_refused(name: str, tmp_path: Path) -> None:
    book = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 4} | SPOILT.get(name, {})
    odd = {"deep": "[" * 100_000, "list": "[]", "empty": ""}
    (tmp_path / "x.ipynb").write_text(odd.get(name) if name in odd else json.dumps(book))
    for call in (notebooks.report, lambda folder: notebooks.run(folder / "x.ipynb", folder / "out")):
        with pytest.raises(InputError, match="cannot be read as a notebook") as raised:
            call(tmp_path)
        assert len(str(raised.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("x", "AAAA"):
        output = v4.new_output("display_data", {"image/png": content})
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("", outputs=[output])]), tmp_path / "x.ipynb")
        with pytest.raises(InputError, match=r"base64|no PNG"):
            notebooks.report(tmp_path)


def test_the_pages_cluster_listens_on_loopback_and_admits_no_one_else(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    written = (Path(__file__).parents[2] / "docs/how-to/cluster.md").read_text()
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)  # an IPython shell's has none
    held: dict[str, Any] = {}
    exec(written.split("```python\n")[1].split("pipe = ")[0], held)
    (settings,) = re.findall(r"^here = .*$", written, re.M)
    exec(settings, held)
    where = distributed.LocalCluster(**held["here"])
    client = distributed.Client(where)
    try:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert len(found) > 2 and set(found) <= {"127.0.0.1", "::1"}
        for port in {c.laddr.port for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}:
            for page in (
                "status",
                "info/main/workers.html",
                "json/counts.json",
                "metrics",
            ):  # of its dashboard, without a login
                with pytest.raises(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=2)
        address, other = where.scheduler_address, distributed.Security.temporary()
        workers = list(where.scheduler.workers)
        for at, security in [(address.replace("tls", "tcp"), None), *((one, other) for one in (address, *workers))]:
            with pytest.raises(OSError, match=r"(?i)timed out|certificate|refused|closed"):
                distributed.Client(at, security=security, timeout=2)
        assert address.startswith("tls://127.0.0.1:") and client.submit(abs, -1).result() == 1
    finally:
        client.close()
        where.close()


def test_nothing_exported_names_this_machine(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case E7: folders (of the home, the checkpoint, the images), the user's and the host's name, in every kind of export."""
    there = {name: tmp_path / f"{name}-folder" / "inner" for name in ("home", "weights", "photos")}
    for folder in there.values():
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(there["home"]))
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "ada-marker")
    monkeypatch.setattr("socket.gethostname", lambda: "host-marker")
    private = Path(os.path.join(there["photos"], "with space"))
    private.mkdir()
    svdlab.sample_image("scene-27").save(private / "mine.png")
    said = f"ada-marker at host-marker, {there['weights']}/x.safetensors and '{private}/mine.png'"
    source = dataclasses.replace(pipe.source, checkpoint=str(there["weights"] / "mine-xt"), licence=said, label=said)
    monkeypatch.setattr(pipe, "source", source)
    shared = tmp_path / "shared"

    plan = svdlab.grid(image=[str(private / "mine.png")], num_inference_steps=1, num_frames=2).assign(label_of=said)
    table = svdlab.sweep(pipe, plan, there["home"] / "study", progress=False)
    ledger.export(there["home"] / "study", shared / "ledger")
    notebooks.report(there["home"] / "study", shared / "study.html")
    walk = widgets.explore(table, pipe=pipe)
    walk.export(shared / "walk")
    walk.close()
    found = Result(probes.find("stillness"), "done", said, table, notes=(said,), source=source, device=said)
    card.write({"stillness": found}, shared / "card")
    found.save(shared / "stillness")
    (shared / "bias.md").write_text(markdown(said, {said: [said, [said], table.drop(columns=["frames"])]}, label=said))
    cells = [v4.new_code_cell("said: str = ''\nout: str = ''", metadata={"tags": ["parameters"]})]
    cells += [v4.new_code_cell("import os\nprint(said, os.getcwd())"), v4.new_code_cell("open(out + '/no-such')")]
    nbformat.write(v4.new_notebook(cells=cells, metadata=KERNEL), there["home"] / "own.ipynb")
    monkeypatch.chdir(there["home"])
    points = notebooks.run_grid(there["home"] / "own.ipynb", {"said": [said]}, out=shared / "points")
    assert points.status.tolist() == ["failed"] and Path(points.notebook[0]).is_file()
    notebooks.report(Path(points.notebook[0]).parent, shared / "own.html")

    left = [path for path in shared.rglob("*") if path.is_file()]
    kinds = {".csv", ".parquet", ".html", ".md", ".json", ".ipynb", ".mp4", ".png", ".pdf", ".txt"}
    assert {path.suffix for path in left} >= kinds
    markers = [f"{name}-folder" for name in there] + ["ada-marker", "host-marker", "with space", str(tmp_path)]
    texts = {path.name: path.read_bytes().decode("utf-8", "replace").replace("\\", "") for path in left}
    assert {
        text[max(0, text.find(m) - 60) : text.find(m) + 40]: name for name, text in texts.items() for m in markers if m in text
    } == {}
    assert "mine.png" in texts["results.csv"] and "mine-xt" in texts["limitations.html"]
    (exported,) = (path for path in (shared / "walk").glob("explore-*.json") if ".mp4" not in path.name)
    again = svdlab.sweep(pipe, exported, tmp_path / "again", measure=(), progress=False)
    assert again.image_hash.tolist() == table.image_hash.tolist()
