"""How does the app run slow work? One job at a time, in a thread that reports, keeps to its time, and can be ended.

Gradio ends a job whose client hangs up while it listens. One that is posted and never listened to it runs to the end:
`end_unheard_jobs` finds those by what nobody reads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from queue import Empty, SimpleQueue
from typing import Any

from starlette.concurrency import run_in_threadpool

from runtime.errors import UserError
from runtime.limits import limit
from runtime.uploads import sweep

HEARTBEAT = 0.3  # seconds; a job can be abandoned this often, however long a step takes
UNHEARD = 10.0  # seconds that a job's messages may lie unread; whoever posts by hand needs some to come back and listen
FORGOTTEN = 600.0  # seconds that they are kept; a result may be fetched late
CANCELLED = "Cancelled."

Report = Callable[[Any], None]


class Abandoned(Exception):
    """Ends a job that nobody waits for any more."""


def run_job(turn: threading.Lock, work: Callable[[Report], Any]) -> Iterator[Any]:
    """Run `work(report)` in a thread while it holds `turn`; yield what it reports, and last what it returns.

    None is yielded whenever that takes long, at least every HEARTBEAT. Closing the iterator ends the work at its next
    report; so does the end of its time (GENDEG_MAX_SECONDS, see `runtime.limits`).

    Raises:
        Exception: whatever `work` raises.
        UserError: if the job takes too long.
    """
    messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    abandoned = threading.Event()

    seconds = limit("GENDEG_MAX_SECONDS")

    def run() -> None:
        with turn:
            end = time.monotonic() + seconds

            def report(message: Any) -> None:
                if abandoned.is_set():
                    raise Abandoned
                if time.monotonic() > end:
                    raise UserError(f"This took longer than {seconds} seconds, which is the limit here. Ask for less.")
                messages.put(("report", message))

            try:
                report(None)
                messages.put(("result", work(report)))
            except Abandoned:
                pass
            except BaseException as error:
                messages.put(("error", error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            try:
                kind, message = messages.get(timeout=HEARTBEAT)
            except Empty:
                kind, message = "report", None
            if kind == "error":
                raise message
            if kind == "report" or message is not None:
                yield message
            if kind == "result":
                return
    finally:
        abandoned.set()


def until(cancelled: threading.Event | None, events: Iterator[Any]) -> Iterator[Any]:
    """What a job reports, until it is cancelled; then CANCELLED, and the job is stopped. None: nobody can cancel it."""
    with closing(events):
        for event in events:
            if cancelled is not None and cancelled.is_set():
                yield CANCELLED
                return
            yield event


@asynccontextmanager
async def end_unheard_jobs(app: Any) -> AsyncIterator[None]:
    """Lifespan of the served app: ends jobs, running or waiting, whose messages nobody has read for UNHEARD seconds.

    What they have said is kept for FORGOTTEN seconds.
    """
    watch = asyncio.create_task(_watch(app))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(app: Any) -> None:
    unread: dict[str, float] = {}  # session -> since when its messages lie there
    swept = time.monotonic()
    while True:
        await asyncio.sleep(1)
        try:
            unread = await _end_unheard(app.get_blocks()._queue, unread)
            if time.monotonic() - swept > 60:
                swept = time.monotonic()
                await run_in_threadpool(sweep)
        except Exception:
            logging.exception("Jobs that nobody listens to could not be looked for.")


async def _end_unheard(queue: Any, unread: dict[str, float]) -> dict[str, float]:
    now, sessions = time.monotonic(), dict(queue.pending_messages_per_session.items())
    unread = {session: unread.get(session, now) for session, messages in sessions.items() if not messages.empty()}
    for session, since in unread.items():
        if now - since > UNHEARD and session in queue.pending_event_ids_session:
            await queue.clean_events(session_hash=session)
        if now - since > FORGOTTEN:
            queue.pending_messages_per_session.pop(session, None)
    for session in [session for session, events in queue.pending_event_ids_session.items() if not events]:
        del queue.pending_event_ids_session[session]  # Gradio keeps an empty set of each
    return unread
