"""What do both tabs show alike? Status lines: progress, and what went wrong."""

from __future__ import annotations

from html import escape

import gradio as gr

from runtime.errors import UserError, sentence


def bar(share: float) -> str:
    """A progress bar, `share` of it done."""
    return f'<div class="bar"><i style="width:{share:.0%}"></i></div>'


def failure(error: UserError) -> str:
    """Status line that says what is wrong."""
    return f'<span class="failure">{escape(str(error))}</span>'


def failed(error: Exception) -> str:
    """Status line of a job that failed; the page also shows for a while what it says."""
    words = escape(sentence(error))
    gr.Warning(words)
    return f'<span class="failure">{words}</span>'
