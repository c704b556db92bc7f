"""A job runs when it is its turn, reports, and ends when nobody wants it, when its time is up, or with what it made."""

import asyncio
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.queueing import Queue

from runtime import jobs
from runtime.errors import UserError
from runtime.jobs import CANCELLED, HEARTBEAT, run_job, until


def events(work, turn=None) -> list:
    return [event for event in run_job(turn or threading.Lock(), work) if event is not None]


def test_reports_and_result() -> None:
    def work(report):
        report(1)
        report(2)
        return "made"

    assert events(work) == [1, 2, "made"]
    assert events(lambda report: report(1)) == [1], "nothing made, nothing yielded"


def test_signs_of_life_while_it_waits_and_works() -> None:
    turn = threading.Lock()
    turn.acquire()
    job = run_job(turn, lambda report: time.sleep(HEARTBEAT * 1.5))
    assert next(job) is None and next(job) is None
    turn.release()
    assert set(job) == {None}


@pytest.mark.parametrize("error", [UserError("A sentence."), ZeroDivisionError("of ours")])
def test_errors_are_raised_as_they_are(error: Exception) -> None:
    def work(report):
        raise error

    with pytest.raises(type(error)) as raised:
        events(work)
    assert raised.value is error


def test_closed_jobs_end_at_their_next_report_and_free_the_turn() -> None:
    turn, reports, ended = threading.Lock(), [], threading.Event()

    def work(report):
        try:
            for step in range(1000):
                report(step)
                reports.append(step)
                time.sleep(0.01)
        finally:
            ended.set()

    with closing(run_job(turn, work)) as job:
        while next(job) != 3:
            pass
    assert ended.wait(2) and len(reports) < 100
    assert events(lambda report: "next", turn) == ["next"]


def test_a_job_that_was_closed_while_it_waited_never_begins() -> None:
    turn, begun = threading.Lock(), []
    with turn, closing(run_job(turn, lambda report: begun.append(1))) as job:
        next(job)
    assert events(lambda report: "next", turn) == ["next"] and not begun


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENDEG_MAX_SECONDS", "1")

    def work(report):
        for step in range(100):
            report(step)
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(UserError, match="longer than 1 seconds"):
        events(work)
    assert time.monotonic() - started < 3


def test_a_wrong_limit_is_said_and_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("soon", "-1", "0", "1.5", "9" * 5000, "٣"):
        monkeypatch.setenv("GENDEG_MAX_SECONDS", value)
        with pytest.raises(UserError, match="GENDEG_MAX_SECONDS must be a whole number"):
            events(lambda report: "made")


def test_until_cancelled() -> None:
    cancelled, seen = threading.Event(), []
    for event in until(cancelled, (i for i in range(5))):
        seen.append(event)
        if event == 2:
            cancelled.set()
    assert seen == [0, 1, 2, CANCELLED]


def test_what_nobody_fetches_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FORGOTTEN", 0.5)

    async def kept() -> tuple[list[str], list[str]]:
        queue = Queue(True, 1, 1, None, gr.Blocks())  # type: ignore[arg-type]
        for session in ("unread", "read"):
            queue.pending_messages_per_session[session] = asyncio.Queue()
            queue.pending_event_ids_session[session] = set()
        queue.pending_messages_per_session["unread"].put_nowait("a result")
        app = SimpleNamespace(get_blocks=lambda: SimpleNamespace(_queue=queue))
        async with jobs.end_unheard_jobs(app):
            await asyncio.sleep(2.5)
        return list(queue.pending_messages_per_session), list(queue.pending_event_ids_session)

    assert asyncio.run(kept()) == (["read"], [])
