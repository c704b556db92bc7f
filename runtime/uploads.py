"""Which files may a visitor of the app name? Those that they uploaded, or the app made for them; nothing else.

Gradio checks file objects in a request only if they carry its `meta` key, so every path is checked here once more.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.data_classes import FileData, ImageData
from gradio.route_utils import GradioMultiPartParser, MultiPartException
from gradio.utils import get_upload_folder
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import UserError
from runtime.limits import limit, max_bytes

KEPT = 3600.0  # seconds that uploads and results are kept
_FORM_BYTES = 1_000_000  # of a form around its file
_VALUES_BYTES = 1_000_000  # of a request that is no upload
_SERVED = "/gradio_api/file="  # between the address of the app and a file's path
_BLOCK = 4096  # bytes that a file takes at least
_RESULTS = "gendeg-"  # begins the names of folders of results
_NOT_UPLOADED = "This photograph is not among the uploaded files. Upload it once more."  # says nothing of what is there


class Photo(gr.Image):
    """An image component whose value reaches functions as the request has it, to be opened through `uploaded`.

    gr.Image opens files, and checks values, before any function sees them, and answers what is wrong with a traceback.
    """

    is_template = True  # the browser treats it as a gr.Image
    data_model = None  # checked in `uploaded`

    def preprocess(self, payload: Any) -> Any:
        return payload

    def api_info(self) -> dict[str, Any]:
        schema = ImageData.model_json_schema()
        return schema | {"additional_description": schema.pop("description", None)}


class Files(gr.File):
    """A component of several files, of any kind, that is to `gr.File` what `Photo` is to `gr.Image`."""

    is_template = True
    data_model = property(
        lambda self: None, lambda self, value: None
    )  # gr.File sets one; a constructor would hide its own

    def preprocess(self, payload: Any) -> Any:
        return payload

    def api_info(self) -> dict[str, Any]:
        file = FileData.model_json_schema()
        (file["properties"]["meta"],) = file.pop("$defs").values()  # tools for assistants lose what is referred to
        return {"type": "array", "items": file}


def uploaded(file: Any) -> str | None:
    """The path of a file that came with a request; None if none came.

    Args:
        file: what a `Photo` hands over: {"path": ...}, or None.

    Raises:
        UserError: for anything but a regular file in the app's upload folder; the same whether there is one or not.
    """
    if file is None:
        return None
    path = file.get("path") if isinstance(file, dict) else None
    if isinstance(path, str) and path.startswith(("http://", "https://")):  # as assistants name an upload
        path = unquote(path.partition(_SERVED)[2])
    try:
        resolved = Path(path).resolve(strict=True)
        inside = resolved.is_relative_to(Path(get_upload_folder()).resolve())
        if inside and stat.S_ISREG(os.stat(resolved).st_mode):
            return str(resolved)
    except (OSError, TypeError, ValueError, RuntimeError):  # also names with NUL, and loops of links
        pass
    raise UserError(_NOT_UPLOADED)


def all_uploaded(files: Any) -> list[Path]:
    """The paths of the files that came with a request.

    Args:
        files: what `Files` hands over: a list of {"path": ...}, one such, or None.

    Raises:
        UserError: as of `uploaded`.
    """
    files = files if isinstance(files, list) else [files]
    named = ({"path": file} if isinstance(file, str) else file for file in files)  # as assistants name uploads
    return [Path(path) for file in named if (path := uploaded(file))]


def check_files(value: Any) -> None:
    """Look for file objects in the values of a request, at any depth, whatever component they are for.

    Raises:
        UserError: if one of them names anything but an uploaded file, an address in the network for example.
    """
    if isinstance(value, dict):
        if "path" in value and (path := uploaded(value)) and _SERVED in value["path"]:
            value["path"] = path  # Gradio would fetch it
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            check_files(inner)


class UploadGate:
    """ASGI middleware: how much requests may bring, and leave on the disk.

    One request brings files, together as much as a data set may hold, or values of at most a megabyte; of each file
    Gradio sees to GENDEG_MAX_MEGABYTES, and `_bounded_part_data` to what is no file. Nothing is taken once the files
    of all visitors, with what is arriving, have reached GENDEG_MAX_CACHE_GIGABYTES. And no deep links: Gradio would
    write a session's state to the disk at each request for one, and never delete it.
    """

    def __init__(self, app: ASGIApp):
        self.app, self.arrived, self.ended = app, 0, 0  # bytes of all requests, and of those that are over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path.endswith("/deep_link"):
            return await PlainTextResponse("There are no deep links here.", 404)(scope, receive, send)
        if not path or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        files = max(max_bytes(), limit("GENDEG_MAX_UNPACKED_MEGABYTES") * 10**6)
        most = files + _FORM_BYTES if path.endswith("/upload") else _VALUES_BYTES
        before = self.ended  # those since then are not among the stored ones
        room = limit("GENDEG_MAX_CACHE_GIGABYTES") * 10**9 - await run_in_threadpool(_stored_bytes)
        arrived = 0

        def check(size: int) -> None:
            if size > most:
                raise _Refused(413, f"This is larger than {most // 10**6} megabytes, which is the limit here.")
            if self.arrived - before >= room:
                raise _Refused(507, "There is no room for more uploads and results now. Try again in an hour.")

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            size = len(message.get("body", b""))
            arrived, self.arrived = arrived + size, self.arrived + size
            check(arrived)
            return message

        try:
            check(int(dict(scope["headers"]).get(b"content-length", b"0")))
            await self.app(scope, counted, send)
        except _Refused as refused:
            await JSONResponse({"detail": refused.args[1]}, refused.args[0])(scope, receive, send)
        finally:
            self.ended += arrived


_part_data = GradioMultiPartParser.on_part_data


def _bounded_part_data(form: GradioMultiPartParser, data: bytes, start: int, end: int) -> None:
    """Gradio keeps in memory what is no file of a form, however much it is; here as much as the values of a request."""
    if form._current_part.file is None:
        form.bytes_of_values = getattr(form, "bytes_of_values", 0) + end - start
        if form.bytes_of_values > _VALUES_BYTES:
            raise MultiPartException(f"What is no file exceeded maximum allowed size of {_VALUES_BYTES} bytes.")
    _part_data(form, data, start, end)


GradioMultiPartParser.on_part_data = _bounded_part_data


class _Refused(Exception):
    """(status, sentence): ends the reading of a request."""


def files_folder() -> Path:
    """A new folder for files to be served, among the uploads: counted with them, and deleted like them."""
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_RESULTS, dir=get_upload_folder()))


def sweep() -> None:
    """Delete old files that Gradio does not know of: results, and what came of uploads that were broken off."""
    for entry in os.scandir(get_upload_folder()) if os.path.isdir(get_upload_folder()) else ():
        with suppress(OSError):
            if entry.name.startswith((_RESULTS, "tmp")) and time.time() - entry.stat().st_mtime > KEPT:
                shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _stored_bytes() -> int:
    total = 0
    for folder, _, names in os.walk(get_upload_folder()):
        for name in names:
            with suppress(OSError):  # it was deleted meanwhile
                total += max(_BLOCK, os.lstat(os.path.join(folder, name)).st_size)
    return total
