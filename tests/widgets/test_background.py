"""Work beside the notebook: the last task is done, jobs stop before their next step and take turns."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from svdlab.errors import InputError
from svdlab.widgets.background import Job, Latest


class Pipe:
    """Whatever jobs take turns on."""


def test_of_many_tasks_the_last_is_done_and_its_error_is_reported() -> None:
    done: list[Any] = []
    draw = Latest(done.append, wait=0.05)
    for n in range(20):
        draw(lambda n=n: done.append(n))
    assert draw.settled(10) and done == [19]

    def fail() -> None:
        raise InputError("no")

    draw(fail)
    assert draw.settled(10) and isinstance(done[1], InputError)
    draw(lambda: draw(lambda: done.append("asked for by a task")))
    assert draw.settled(10) and done[2:] == ["asked for by a task"]


def test_a_job_reports_its_steps_and_its_end() -> None:
    seen: list[int] = []
    job = Job(Pipe(), "Go", lambda: (3, lambda tick: [tick(n) for n in (1, 2, 3)]), lambda result: f"made {len(result)}")
    job.bar.observe(lambda change: seen.append(change["new"]), "value")
    job.go.click()
    assert job.join(10) and seen[-3:] == [1, 2, 3] and "made 3" in job.status.value
    assert job.bar.bar_style == "success" and not job.go.disabled and job.halt.disabled


def test_whatever_a_job_raises_is_shown() -> None:
    def work(tick: Any) -> None:
        raise RuntimeError("<no memory>")

    job = Job(Pipe(), "Go", lambda: (1, work), str)
    job.start()
    assert job.join(10) and "Could not" in job.status.value and "&lt;no memory&gt;" in job.status.value
    assert job.bar.bar_style == "danger" and not job.go.disabled


def test_a_cancelled_job_stops_before_its_next_step_and_while_it_waits() -> None:
    pipe, reached, cancelled = Pipe(), threading.Event(), threading.Event()

    def work(tick: Any) -> None:
        tick(1)
        reached.set()
        assert cancelled.wait(10)
        tick(2)

    first, second = (Job(pipe, "Go", lambda: (9, work), str) for _ in range(2))
    first.start()
    assert reached.wait(10)
    with pytest.raises(InputError, match="being made"):
        first.start()
    second.start()  # waits for its turn
    second.halt.click()
    assert second.join(10) and "stopped at step 0 of 9" in second.status.value and not first.join(0)
    first.halt.click()
    cancelled.set()
    assert first.join(10) and "stopped at step 1 of 9" in first.status.value


def test_two_jobs_take_turns_on_one_pipeline_and_not_on_two() -> None:
    running: list[int] = []
    most: list[int] = []
    meet = threading.Barrier(2)

    def work(tick: Any) -> None:
        running.append(1)
        most.append(len(running))
        meet.wait(0.2) if together else threading.Event().wait(0.05)
        running.pop()

    for together, pipes in ((False, [Pipe()] * 2), (True, [Pipe(), Pipe()])):
        most.clear()
        jobs = [Job(pipe, "Go", lambda: (1, work), str) for pipe in pipes]
        for job in jobs:
            job.start()
        assert all(job.join(10) for job in jobs) and max(most) == (2 if together else 1)
