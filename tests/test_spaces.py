"""What a Hugging Face Space needs: the header of the README, and jobs that can be given a GPU of their own."""

import multiprocessing
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import app
from gendeg import checkpoints, jobs
from gendeg.jobs import Models, Step
from gendeg.request import Request, Result
from gendeg.robustness import rising_mus
from restorers import jobs as restoring
from restorers import registry
from restorers.jobs import Failure, Restorers, measuring, restore_photo
from restorers.jobs import Request as RestoreRequest
from tests.gendeg.test_captions import tiny_blip2

ROOT = Path(__file__).parents[1]
PHOTO = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
REQUEST = Request(PHOTO, "haze", 0.1, 0.1, steps=2)


def test_the_header_starts_the_app_that_is_tested() -> None:
    _, header, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["sdk"] == "gradio" and (ROOT / header["app_file"]).is_file()
    versions = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert header["sdk_version"] == versions["gradio"]
    least = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert [int(n) for n in header["python_version"].split(".")] >= [int(n) for n in least.split(".")]


decorated: list[str] = []  # names of the functions


def lend_a_process(duration: int | Callable[..., int]) -> Callable[[Callable], Callable]:
    """Decorate like `spaces.GPU` does where GPUs are lent: each call runs in a process forked from this one."""

    def decorate(function: Callable) -> Callable:
        def generator(*arguments: Any) -> Any:
            assert 0 < (duration(*arguments) if callable(duration) else duration) <= 120
            messages = multiprocessing.get_context("fork").SimpleQueue()

            def work(pickled: bytes) -> None:
                try:
                    for value in function(*pickle.loads(pickled)):
                        messages.put((True, value))
                    messages.put((False, None))
                except Exception as error:
                    messages.put((False, error))

            process = multiprocessing.get_context("fork").Process(target=work, args=[pickle.dumps(arguments)])
            process.start()
            going_on, value = messages.get()
            while going_on:
                yield value
                going_on, value = messages.get()
            process.join()
            if value is not None:
                raise value

        decorated.append(function.__name__)
        return generator

    return decorate


@pytest.fixture
def lent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", ModuleType("spaces"))
    sys.modules["spaces"].GPU = lend_a_process
    decorated.clear()


@pytest.fixture
def models(tiny_pipeline_folder: Path, tiny_paper_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two generators to choose from; returns the name of the second."""
    (tmp_path / "paper").symlink_to(tiny_paper_folder)
    monkeypatch.setattr(checkpoints, "MODELS", tmp_path)
    monkeypatch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
    return f"{tmp_path.name}/paper"


def test_jobs_run_in_another_process_as_in_this(models: str, lent_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lending = Models()
    lending.prepare()
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "spaces")
        own = Models()
    for model in (None, models):
        steps, result = [], None
        for event in lending.generate(REQUEST, model):
            steps += [event.done] if isinstance(event, Step) else []
            result = event
        *_, expected = own.generate(REQUEST, model)
        assert steps == [1, 2] and isinstance(result, Result)
        assert np.array_equal(np.asarray(result.degraded), np.asarray(expected.degraded))
    *_, rows = lending.sweep(REQUEST)
    assert [len(row) for row in rows] == [5, 5]
    *_, shown = lending.rise(REQUEST)
    assert [picture.asked[0] for picture in shown] == rising_mus("haze")
    with pytest.raises(ValueError, match="There is no model 'x'"):
        list(lending.generate(REQUEST, "x"))


def test_restorers_run_in_another_process(
    tiny_restorers_folder: Path, lent_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BUNDLED", tiny_restorers_folder)
    restorers = Restorers()
    events = list(restore_photo(restorers, RestoreRequest(PHOTO, ("nafnet", "missing"))))
    results = {type(event).__name__: event for event in events if event is not None}
    assert results["Result"].image.size == (64, 64) and isinstance(results["Failure"], Failure)
    *_, (values,) = measuring(restorers, ["nafnet"])([(PHOTO, PHOTO)])
    assert list(values) == ["psnr", "ssim", "nafnet_psnr", "nafnet_ssim"]
    assert not restorers._loaded, "this process has no GPU to load it on"


def test_a_gpu_is_asked_for_as_long_as_the_work_takes(models: str, tiny_restorers_folder: Path) -> None:
    def seconds(
        model: str | None = None, work: Any = jobs._generate, size: tuple[int, int] = (64, 64), **of: Any
    ) -> int:
        return jobs._seconds(work, replace(REQUEST, photo=PHOTO.resize(size), **of), model)

    assert 15 < seconds() < 20
    assert seconds() < seconds(steps=50) < seconds(models, steps=50, resolution=512) < 60
    assert seconds() < seconds(size=(4000, 3000)) < 30 and seconds() < seconds(work=jobs._sweep)
    assert seconds(models, steps=200, resolution=768, size=(640, 64)) == 120
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "BUNDLED", tiny_restorers_folder)
        one, two = (restoring._seconds(None, RestoreRequest(PHOTO, names)) for names in (("swin",), ("swin", "nafnet")))
        large = restoring._seconds(None, RestoreRequest(PHOTO.resize((4000, 3000)), ("swin",)))
        assert 15 < one <= two < large < 30


def test_the_whole_app(models: str, lent_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENDEG_CAPTIONS", tiny_blip2(tmp_path))
    models_of_the_app = Models()
    monkeypatch.setattr(app, "Models", lambda: models_of_the_app)
    app.build()
    assert sorted(decorated) == ["_run", "_run", "caption_of"], "generator, restorers, captioner"
    assert models_of_the_app.loaded(), "before the page is served"
