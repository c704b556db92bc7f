"""What is a user told when something goes wrong? How to mend it, or a general sentence where the fault is ours."""

from __future__ import annotations

import logging

OUR_FAULT = "Something went wrong on our side; the log says what. Nothing that you sent is lost: try once more."


class UserError(ValueError):
    """What a user can mend. The message is a whole sentence that says how; nothing else is shown to them."""


def sentence(error: BaseException) -> str:
    """What to tell the user of an exception: a `UserError`'s own words. Anything else is logged, with its traceback."""
    if isinstance(error, UserError):
        return str(error).encode(errors="replace").decode()  # half a surrogate pair cannot be sent
    logging.error("This should not have happened.", exc_info=error)
    return OUR_FAULT
