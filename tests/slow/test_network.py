"""The network: HF_TOKEN from end to end, through a gated checkpoint, a sweep by an executor, a notebook, a report and failing
downloads; and where the Dask of a notebook listens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.small import save_checkpoint
from tests.stand_in_hub import Hub, serve

ROOT = Path(__file__).parents[2]
REPO = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
TOKEN = "hf_MarkerMarkerMarkerMarkerMarkerMark"
pytestmark = pytest.mark.slow

WORK = """
import json, logging, sys, traceback, warnings
logging.basicConfig(filename="everything.log", level=logging.DEBUG)
from pathlib import Path
import cloudpickle, distributed, svdlab
from svdlab.study import ledger, notebooks
repo, book = sys.argv[1], sys.argv[2]
pipe = svdlab.load_pipeline(repo)

class Spied:
    def __init__(self, real):
        self.real, self.tasks = real, []
    def submit(self, *task):
        self.tasks.append(cloudpickle.dumps(task))
        return self.real.submit(*task)

plan = [dict(num_inference_steps=1, seed=0), dict(num_inference_steps=1, seed=1, max_guidance_scale=3e38)]  # the second fails
local = dict(host="127.0.0.1", security=True, dashboard_address=None)
with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **local) as cluster, distributed.Client(cluster) as client:
    spied = Spied(client.get_executor())
    table = svdlab.sweep(pipe, plan, "study", image="scene-3", keep=("denoised",), executor=spied, progress=False)
Path("tasks.bin").write_bytes(b"".join(spied.tasks))
ledger.export("study", "exported")
notebooks.report("study", "study.html")
try:
    notebooks.run(book, "executed", progress=False)
except svdlab.errors.RunError as error:
    print("notebook:", error)
notebooks.report("executed", "executed.html")
svdlab.widgets.explore("study")
for name in ("someone/nothing", repo + "-2"):
    try:
        svdlab.load_pipeline(name)
    except OSError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        print("download:", text)
print(json.dumps([table.status.tolist(), len(spied.tasks)]))
"""


def test_a_token_is_in_no_file_no_log_no_error_no_notebook_and_no_task(tmp_path: Path) -> None:
    served, work = save_checkpoint(tmp_path / "served"), tmp_path / "work"
    work.mkdir()
    cells = [
        f"import svdlab\npipe = svdlab.load_pipeline({REPO!r})\npipe.source",
        "svdlab.generate(pipe, 'scene-3', num_inference_steps=1)",
        "svdlab.load_pipeline('someone/nothing')",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(book, work / "book.ipynb")
    with serve(Hub(REPO, served, gated=True, tokens={TOKEN: "accepted"})) as hub:
        settings = dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN)
        environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
        environment.pop("HF_HUB_CACHE", None)

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=work, timeout=280
            )

        done = run("-c", WORK, REPO, "book.ipynb")
        assert done.returncode == 0, done.stderr[-3000:]
        said = [done.stdout, done.stderr]
        assert json.loads(done.stdout.splitlines()[-1]) == [["done", "failed"], 1] and "notebook:" in done.stdout
        hub.tokens = {}  # what was a token is none any more
        for words in (["doctor", "--checkpoint", REPO + "-2"], ["organism", "verify", "someone/nothing"]):
            failed = run("-m", "svdlab", *words)
            assert failed.returncode == 1
            said += [failed.stdout, failed.stderr]
        assert any("Invalid credentials" in text for text in said)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in left}
    assert {"everything.log", "tasks.bin", "book.ipynb", "study.html", "executed.html", "results.csv", "run.json"} <= names
    assert [path for path in left if TOKEN.encode() in path.read_bytes()] == []
    assert [text for text in said if TOKEN in text] == []
