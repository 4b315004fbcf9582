"""Jobs report how they ended, take turns and can be cancelled. Steps: tests/widgets/test_live.py."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from svdlab.errors import InputError
from svdlab.widgets.job import Job


class Pipe:
    """Whatever jobs take turns on."""


@pytest.mark.parametrize(
    ("work", "style", "text"), [(lambda: 3, "success", "made 3"), (lambda: 1 / 0, "danger", "Could not: </b>division")]
)
def test_a_job_reports_how_it_ended(work: Any, style: str, text: str) -> None:
    job = Job(Pipe(), "Go", lambda: work, lambda result: f"made {result}")
    for _ in range(2):
        job.go.click()
        assert job.join(10) and job.bar.bar_style == style and text in job.status.value
        assert not job.go.disabled and job.halt.disabled


def test_jobs_take_turns_on_one_pipeline_and_waiting_can_be_cancelled() -> None:
    pipe, free = Pipe(), threading.Event()
    first, second, third = (Job(pipe, "Go", lambda: lambda: free.wait(10), str) for _ in range(3))
    other = Job(Pipe(), "Go", lambda: lambda: "another pipeline", str)
    for job in (first, second, third, other):
        job.start()
    with pytest.raises(InputError, match="being made"):
        first.start()
    second.halt.click()
    assert second.join(10) and "stopped" in second.status.value and second.bar.bar_style == "warning"
    assert other.join(10) and not first.join(0) and not third.join(0.2)
    free.set()
    assert first.join(10) and third.join(10) and "True" in third.status.value
