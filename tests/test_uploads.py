"""No request makes the served app open a file that was not uploaded to it, nor learn of one, nor hang on one."""

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import app
from runtime import limits, page, uploads
from runtime.errors import UserError
from runtime.uploads import Photo, uploaded

NOT_UPLOADED = "This photograph is not among the uploaded files. Upload it once more."


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths outside the upload folder: an image, a folder, a FIFO, a device, what is not there, and odd ones."""
    folder = tmp_path_factory.mktemp("foreign")
    Image.new("RGB", (64, 64), "red").save(folder / "private.png")
    os.mkfifo(folder / "fifo.png")
    return [
        str(folder / "private.png"), str(folder / "none.png"), str(folder), str(folder / "fifo.png"), "/dev/zero",
        "/proc/self/environ", "private.png", "", "\0", "http://127.0.0.1:1/private.png", "~/private.png",
    ]  # fmt: skip


def call(url: str, name: str, data: list[Any]) -> tuple[str, Any]:
    """(last event, its data) of a named endpoint, over plain HTTP."""
    event = httpx.post(f"{url}gradio_api/call/{name}", json={"data": data}, timeout=20).json()["event_id"]
    lines = httpx.get(f"{url}gradio_api/call/{name}/{event}", timeout=20).text.splitlines()
    return lines[-3].removeprefix("event: "), json.loads(lines[-2].removeprefix("data: "))


def names_and_arguments(demo: gr.Blocks) -> Iterator[tuple[int, list[Any], int]]:
    """(index of a function, its inputs' values, which of them is a file) for every file that any function takes."""
    for index, function in demo.fns.items():
        values = [getattr(block, "value", None) for block in function.inputs]
        for place, block in enumerate(function.inputs):
            if isinstance(block, gr.Image | gr.File | gr.DownloadButton | gr.ImageEditor | gr.UploadButton):
                yield index, values, place


@pytest.mark.parametrize(
    ("endpoint", "rest"),  # what is left out has its default
    [("degrade", "haze"), ("restore", ["nafnet"]), ("robustness", ["nafnet"]), ("data_set", ["haze"])],
)
def test_named_endpoints_open_uploads_alone(app_url: str, foreign: list[str], endpoint: str, rest: object) -> None:
    answers = set()
    for path in foreign:
        file = {"path": path}
        others = (
            [{"path": path, "meta": {"_type": "something"}}, path] if endpoint == "degrade" else []
        )  # one check of all
        for named in [[None, file]] if endpoint == "data_set" else [file, *others]:
            event, answer = call(app_url, endpoint, [named, rest])
            assert event == "error"
            answers.add(json.dumps(answer))
    assert len(answers) == 1 and NOT_UPLOADED in answers.pop(), "one sentence, whether the file is there or not"


def test_the_clean_image_must_be_uploaded_too(app_url: str, foreign: list[str], photo: Path) -> None:
    client = Client(app_url, verbose=False)
    (upload,) = httpx.post(f"{app_url}gradio_api/upload", files={"files": photo.read_bytes()}).json()
    for path in foreign:
        event, answer = call(app_url, "restore", [{"path": upload}, ["nafnet"], {"path": path}])
        assert event == "error" and NOT_UPLOADED in answer["error"]
    assert len(client.predict(handle_file(str(photo)), ["nafnet"], None, api_name="/restore")) == 2


def test_no_function_of_the_app_takes_a_foreign_file(app_url: str, foreign: list[str]) -> None:
    """Each function behind the page, by its number, with each of its file parameters."""
    found = 0
    for index, values, place in names_and_arguments(app.demo):
        found += 1
        for path in (foreign[0], foreign[3]):
            values[place] = {"path": path}
            body = {"data": values, "fn_index": index, "session_hash": f"probe{index}"}
            started = time.monotonic()
            answer = httpx.post(f"{app_url}gradio_api/queue/join", json=body, timeout=20)
            text = answer.text
            if answer.status_code == 200:
                text += httpx.get(f"{app_url}gradio_api/queue/data?session_hash=probe{index}", timeout=30).text
            assert time.monotonic() - started < 10
            assert "file=" not in text and "private" not in text.replace(path, ""), f"function {index} served {path}"
    assert found >= 8


def test_a_painted_mask_is_an_upload_like_any_other(app_url: str, foreign: list[str], photo: Path) -> None:
    (index,) = (index for index, function in app.demo.fns.items() if function.name == "painted")
    (upload,) = httpx.post(f"{app_url}gradio_api/upload", files={"files": photo.read_bytes()}).json()
    for path in (*foreign[:4], upload):
        body = {"data": [], "fn_index": index, "session_hash": "painter", "event_data": {"path": path}}
        httpx.post(f"{app_url}gradio_api/queue/join", json=body, timeout=20)
        text = httpx.get(f"{app_url}gradio_api/queue/data?session_hash=painter", timeout=30).text
        assert ("file=" in text) == (path == upload), path


def test_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    (folder / "photo.png").touch()
    (tmp_path / "private.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "fifo.png")
    assert uploaded(None) is None
    assert uploaded({"path": str(folder / "photo.png")}) == str(folder / "photo.png")
    assert uploaded({"path": str(folder / ".." / "uploads" / "photo.png")}) == str(folder / "photo.png")
    bad = ["link.png", "loop.png", "fifo.png", "none.png", ".", "../private.png", "a" * 5000]
    for file in (*({"path": str(folder / name)} for name in bad), {"path": 1}, {"path": None}, {}, [], 1, "photo.png"):
        with pytest.raises(UserError, match="Upload it once more"):
            uploaded(file)


def test_the_page_has_no_input_that_opens_files_itself() -> None:
    for function in app.demo.fns.values():
        opening = [block for block in function.inputs if isinstance(block, gr.Image | gr.File)]
        assert all(isinstance(block, Photo | uploads.Files) for block in opening)


def test_uploads_are_limited_in_size_and_in_all(app_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = f"{app_url}gradio_api/upload"
    assert httpx.post(upload, files={"files": ("large.png", b"\0" * 61_000_000)}, timeout=60).status_code == 413
    assert httpx.post(upload, files={"files": ("small.png", b"\0")}).status_code == 200
    monkeypatch.setattr(uploads, "_stored_bytes", lambda: 8 * 10**9)
    refused = httpx.post(upload, files={"files": ("small.png", b"\0")})
    assert refused.status_code == 507 and "no room for more uploads" in refused.text
    assert httpx.post(f"{app_url}gradio_api/call/degrade", json={"data": []}).status_code == 507, (
        "results take room too"
    )
    assert httpx.get(app_url).status_code == 200


def test_no_value_of_a_request_names_a_foreign_file_at_any_depth() -> None:
    for value in (
        {"path": "/etc/passwd"},
        [[{"image": {"path": "http://127.0.0.1/x.png"}}]],
        {"value": {"path": None}},
    ):
        with pytest.raises(UserError, match="Upload it once more"):
            uploads.check_files([1, value])
    uploads.check_files([None, "path", {"url": "x"}, [1.5, {"a": ["path"]}]])


def test_the_security_page_names_each_limit_and_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    table = (limits.__doc__ or "").partition("\n\n")[2].strip()
    assert table in page
    rows = dict(re.findall(r"^\| (GENDEG_\w+) \|.*\| (\d+) \|$", table, re.M))
    assert {name: int(default) for name, default in rows.items()} == limits.DEFAULTS


def test_what_the_page_does_not_use_is_not_served(app_url: str) -> None:
    """Deep links fill the disk; a run history acts with the host's own token for requests that look local."""
    for path in ("gradio_api/deep_link?session_hash=x", "gradio_api/runs", "gradio_api/run-history/records"):
        assert httpx.get(app_url + path).status_code == 404
    assert httpx.get(f"{app_url}monitoring/summary").status_code == 403


def test_a_request_that_is_none_is_answered_by_a_sentence(app_url: str) -> None:
    for body in (b"{", b'{"data": NaN}', b'{"data": [], "fn_index": 99999, "session_hash": "x"}'):
        answer = httpx.post(
            f"{app_url}gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (404, 422) and answer.json()["detail"].endswith(".")
    assert httpx.post(f"{app_url}gradio_api/call/none", json={"data": []}).status_code == 404
    assert httpx.post(f"{app_url}gradio_api/call/v2/degrade", json={}).status_code == 422


def test_requests_are_limited_in_what_they_bring(app_url: str) -> None:
    large = {"data": [None, "haze", None, None, 0, 1, None, None, None, "photo", "a" * 1_100_000]}
    refused = httpx.post(f"{app_url}gradio_api/call/degrade", json=large)
    assert refused.status_code == 413 and "larger than 1 megabytes" in refused.text

    def parts() -> Iterator[bytes]:  # its length is not told beforehand
        yield from (b"a" * 100_000 for _ in range(20))

    refused = httpx.post(f"{app_url}gradio_api/queue/join", content=parts())
    assert refused.status_code in (400, 413)
    assert httpx.get(app_url).status_code == 200


def test_what_is_no_file_of_a_form_is_limited(app_url: str) -> None:
    """Gradio would keep all of it in memory, several times over."""
    form = {"files": (None, "a" * 600_000), "more": (None, "a" * 600_000)}
    refused = httpx.post(f"{app_url}gradio_api/upload", files=form, timeout=60)
    assert refused.status_code in (400, 413) and "1000000 bytes" in refused.text


def test_uploads_that_end_beside_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three begins before another has ended; what has ended meanwhile is stored, or will be."""
    monkeypatch.setenv("GENDEG_MAX_CACHE_GIGABYTES", "1")
    monkeypatch.setattr(uploads, "_stored_bytes", lambda: 0)  # as all three find it when they begin

    async def store(scope: dict, receive: Callable, send: Callable) -> None:
        await receive()

    async def answers() -> list[int]:
        gate, begun, said = uploads.UploadGate(store), [asyncio.Event() for _ in range(3)], []

        async def upload(number: int) -> None:
            async def receive() -> dict:
                await begun[number].wait()
                return {"body": bytes(400_000_000)}

            async def send(message: dict) -> None:
                said.append(message.get("status"))

            await gate({"type": "http", "method": "POST", "path": "/upload", "headers": []}, receive, send)

        tasks = [asyncio.create_task(upload(number)) for number in range(3)]
        for event, task in zip(begun, tasks, strict=True):
            await asyncio.sleep(0.2)
            event.set()
            await task
        return [status for status in said if status]

    assert asyncio.run(answers()) == [507]


def test_several_photographs_may_come_together(app_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(count: int) -> int:
        files = [("files", (f"{number}.png", b"\0" * 900_000)) for number in range(count)]
        return httpx.post(f"{app_url}gradio_api/upload", files=files, timeout=60).status_code

    monkeypatch.setenv("GENDEG_MAX_MEGABYTES", "1")
    monkeypatch.setenv("GENDEG_MAX_UNPACKED_MEGABYTES", "3")
    assert [send(3), send(5)] == [200, 413]
    monkeypatch.setattr(uploads, "_stored_bytes", lambda: 8 * 10**9 - 3_000_000)
    monkeypatch.setenv("GENDEG_MAX_UNPACKED_MEGABYTES", "100")
    assert [send(2), send(5)] == [200, 507], "looked at while they come, not only before"


def test_no_function_leaves_files_where_there_is_no_room(app_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_stored_bytes", lambda: 8 * 10**9)
    for path in ("run/predict", "api/predict", "call/degrade", "queue/join"):
        answer = httpx.post(f"{app_url}gradio_api/{path}", json={"data": [], "fn_index": 0, "session_hash": "full"})
        assert answer.status_code == 507, path


def test_old_files_are_swept_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    old, new = uploads.files_folder(), uploads.files_folder()
    for file in (old / "a.png", new / "b.png", tmp_path / "tmpbroken", tmp_path / "tmpnew", tmp_path / "known"):
        file.touch()
    for file in (old, tmp_path / "tmpbroken", tmp_path / "known"):
        os.utime(file, (0, 0))
    uploads.sweep()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([new.name, "tmpnew", "known"])


def test_visitors_never_get_each_other_s_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def save(shade: int) -> bool:
        (path,) = page.save_pngs({"photo": Image.new("L", (40, 40), shade)})
        return Image.open(path).getextrema() == (shade, shade)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(save, range(200)))
