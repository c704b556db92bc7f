"""The examples of the documents run as they stand; assistants find the same functions as tools."""

import asyncio
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests import tiny

ROOT = Path(__file__).parents[1]
TOOLS = ["degrade", "restore", "robustness", "data_set"]


@pytest.fixture
def files(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples name, in the folder where they run."""
    monkeypatch.chdir(tmp_path)
    small = Image.open(photo).resize((80, 64))
    for name in ("photo.jpg", "hazy.png", "clean.png"):
        small.save(name)
    Image.linear_gradient("L").resize(small.size).save("window.png")
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write("clean.png")


@pytest.mark.parametrize("document", ["README.md", "docs/api.md"])
def test_examples_run_as_they_stand(document: str, app_url: str, files: None) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    source = "".join(block for block in blocks if "client" in block)
    names: dict[str, Any] = {}
    exec(source.replace("http://127.0.0.1:7860", app_url), names)
    assert Image.open(names["degraded"]).size == (80, 64)
    if document != "README.md":
        assert set(re.findall(r'api_name="/(\w+)"', source)) == set(TOOLS)
        assert len(names["files"]) == 1 and len(names["pictures"]) == 8 and names["numbers"]["pairs"] > 0


def test_assistants_have_the_same_tools(
    tiny_pipeline_folder: Path,
    tiny_restorers_folder: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    async def ask(url: str) -> None:
        address = f"{url}gradio_api/mcp/"
        async with streamablehttp_client(address) as (read, write, _), mcp.ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert list(tools) == TOOLS and "degradation: haze, rain" in tools["degrade"].description
            (upload,) = httpx.post(f"{url}gradio_api/upload", files={"files": ("photo.png", photo.read_bytes())}).json()
            own = f"{url}gradio_api/file={upload}"
            for tool, values, result in (
                ("degrade", {"image": own, "steps": 1}, "degraded.png"),
                ("restore", {"image": own, "restorers": ["nafnet"]}, "-nafnet.png"),
                ("data_set", {"photographs": [own], "degradations": ["haze"]}, "pairs.zip"),
            ):
                answer = await session.call_tool(tool, values)
                assert not answer.isError and result in answer.content[0].text, tool
            private = str(tmp_path / "private.png")
            Image.new("RGB", (64, 64)).save(private)
            named = {"path": private, "meta": {"_type": "gradio.FileData"}}
            for file in (private, named, f"{url}gradio_api/file={private}", "http://127.0.0.1:1/x.png"):
                for tool, values in (("degrade", {"image": file}), ("data_set", {"photographs": [file]})):
                    answer = await session.call_tool(tool, values)
                    assert answer.isError and re.search(
                        "Upload it once more|provide a url|not of type 'string'", answer.content[0].text
                    ), (tool, file, answer)

    monkeypatch.setenv("GRADIO_MCP_SERVER", "true")
    with tiny.served(tiny_pipeline_folder, tiny_restorers_folder, tmp_path / "uploads") as url:
        asyncio.run(ask(url))
