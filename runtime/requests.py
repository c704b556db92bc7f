"""What is answered to a request that is wrong? A sentence; Gradio's own answer would be empty, its log a traceback."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from starlette.requests import Request
from starlette.responses import JSONResponse

from runtime.errors import UserError, sentence
from runtime.uploads import check_files

UNFIT = "One of the values is not among those that this page offers. Reload the page, and choose once more."
UNKNOWN = "There is no such function here. Reload the page, or see its API documentation."
MALFORMED = "The request is not of the form that this server takes."


class Page(gr.Blocks):
    """A page whose endpoints may be called with fewer values than they take: those left out have their defaults.

    No component sees a file that was not uploaded; and whatever goes wrong, the answer is a sentence.
    """

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        if not block_fn.fn:  # the page does it by itself
            raise UserError(UNKNOWN)
        inputs.extend(getattr(block, "value", None) for block in block_fn.inputs[len(inputs) :])
        if len(inputs) > len(block_fn.inputs):
            raise UserError(f"This takes at most {len(block_fn.inputs)} values, not {len(inputs)}.")

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **options: Any) -> list[Any]:
        try:
            check_files(inputs)
            values = await super().preprocess_data(block_fn, inputs, *rest, **options)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # Gradio's components raise almost anything, and tell of themselves
            logging.info("A value was refused: %r", error)
            raise UserError(UNFIT) from error
        for block, value in zip(block_fn.inputs, values, strict=True):
            if isinstance(block, gr.Dataset) and value is None:  # Gradio's examples take it for granted
                raise UserError(UNFIT)
        return values

    async def process_api(self, *values: Any, **options: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*values, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from error


async def refuse_malformed(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that is no JSON, or of other fields: FastAPI's own repeats it, and fails at a NaN."""
    return JSONResponse({"detail": MALFORMED}, 422)


async def refuse_unknown(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request for a function, component or parameter that is not there."""
    logging.info("%s %s: %r", request.method, request.url.path, error)
    return JSONResponse({"detail": UNKNOWN}, 404)


HANDLERS = {  # of what Gradio's routes raise before any function or component is reached
    RequestValidationError: refuse_malformed,
    TypeError: refuse_malformed,  # a parameter by a wrong name, or none
    FnIndexInferError: refuse_unknown,
    KeyError: refuse_unknown,
}
