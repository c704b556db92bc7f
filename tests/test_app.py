"""The app through its named endpoints: results, reproducibility, every kind of bad input, cancelling."""

import csv
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from gendeg import checkpoints
from gendeg.degradations import DEGRADATIONS
from gendeg.jobs import Models, model_source
from gendeg.pipeline import GenDegPipeline
from gendeg.robustness import rising_mus
from gendeg.robustness_tab import run_robustness
from gendeg.scheduler import BridgeScheduler
from gendeg.tab import (
    change_degradation,
    list_models,
    model_settings,
    preset_settings,
    run_generate,
    settings_of_degradation,
)
from restorers.nafnet import NAFNet
from restorers.tab import list_restorers
from runtime import jobs
from runtime.errors import UserError


@pytest.fixture(scope="module")
def client(app_url: str) -> Client:
    return Client(app_url, verbose=False)


@pytest.fixture
def degrade(client: Client) -> Callable[..., tuple]:
    def degrade(path: Path | str, *arguments: Any, **options: Any) -> tuple:
        return client.submit(handle_file(str(path)), *arguments, **options, api_name="/degrade").result(timeout=60)

    return degrade


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")) / 255


def test_degrade(degrade, photo: Path) -> None:
    degraded, clean, degradation_map, numbers = degrade(photo, "rain", 0.1, 0.06, 7, steps=2)
    assert pixels(degraded).shape == pixels(clean).shape == pixels(degradation_map).shape == (240, 320, 3)
    assert np.array_equal(pixels(clean), pixels(str(photo))), "the photograph itself"
    assert numbers["degradation"] == "rain" and numbers["seed"] == 7
    assert numbers["asked"] == {"mu": 0.1, "sigma": 0.06}
    difference = np.abs(pixels(degraded) - pixels(clean))
    assert numbers["at_output_size"]["mu"] == pytest.approx(difference.mean(), abs=0.002)
    assert numbers["at_output_size"]["sigma"] == pytest.approx(difference.std(), abs=0.002)


def test_only_the_photograph_is_required(degrade, photo: Path) -> None:
    numbers = degrade(photo)[3]
    assert numbers["degradation"] == "haze" and numbers["asked"] == {"mu": 0.107, "sigma": 0.067}


def test_seed_decides(degrade, photo: Path) -> None:
    first, again, other = (pixels(degrade(photo, "snow", 0.1, 0.06, seed)[0]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sizes(degrade, photo: Path) -> None:
    assert pixels(degrade(photo, steps=1, output_size=120)[0]).shape == (120, 160, 3)
    # The working size: its short side would be 256, but the tiny model bounds the long one.
    assert pixels(degrade(photo, resolution=256, steps=1, output_size="working")[0]).shape == (192, 256, 3)
    assert pixels(degrade(photo, resolution=256, steps=1)[0]).shape == (240, 320, 3)


@pytest.mark.parametrize("kind", ["transparent", "16 bits", "rotated"])
def test_unusual_images(degrade, photo: Path, tmp_path: Path, kind: str) -> None:
    """Of what there is besides, runtime/test_images.py opens each kind."""
    image = Image.open(photo)
    path, shape = tmp_path / "photo.png", (240, 320, 3)
    if kind == "transparent":
        image.convert("RGBA").save(path)
    elif kind == "16 bits":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        path, shape = tmp_path / "photo.jpg", (320, 240, 3)
        image.save(path, exif=exif)
    degraded, clean, _, _ = degrade(path, steps=1)
    assert pixels(degraded).shape == pixels(clean).shape == shape


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text", "not an image"),
        ("truncated", "damaged or incomplete"),
        ("1x1", "at least 32"),
        ("bomb", "megapixels"),
        ("20000x32", "too long and narrow"),
    ],
)
def test_bad_images(degrade, photo: Path, tmp_path: Path, name: str, sentence: str) -> None:
    path = tmp_path / ("notes.txt" if name == "text" else "photo.png")
    if name == "text":
        path.write_text("no pixels here")
    elif name == "truncated":
        path.write_bytes(photo.read_bytes()[:20_000])
    elif name == "1x1":
        Image.new("RGB", (1, 1)).save(path)
    elif name == "20000x32":
        Image.new("RGB", (20_000, 32)).save(path)
    else:
        Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(AppError, match=sentence):
        degrade(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"degradation": "fog"}, "Choose one of: haze"),
        ({"mu": 5}, "mu must be a number from 0 to 0.7"),
        ({"mu": -0.1}, "mu must be a number from 0 to 0.7"),
        ({"mu": "much"}, "mu must be a number"),
        ({"sigma": 0.5}, "sigma must be a number from 0 to 0.4"),
        ({"seed": -1}, "The seed must be a whole number"),
        ({"seed": 1.5}, "The seed must be a whole number"),
        ({"seed": 1e12}, "The seed must be a whole number"),
        ({"steps": 0}, "The number of steps must be a whole number"),
        ({"steps": 2.5}, "The number of steps must be a whole number"),
        ({"guidance_scale": -1}, "The guidance scale must be a number"),
        ({"resolution": 10_000}, "The resolution must be a whole number from 256 to 768"),
        ({"output_size": "huge"}, "The output size must be photo or working, or a short side in pixels, not huge"),
        ({"caption": "a" * 1001}, "The scene caption has 1001 characters; 1000 are the most"),
        ({"output_size": -5}, "The output size must be photo or working"),
    ],
)
def test_bad_values(degrade, photo: Path, options: dict, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        degrade(photo, **options)


def test_no_photograph(client: Client) -> None:
    with pytest.raises(AppError, match="There is no photograph yet"):
        client.predict(None, api_name="/degrade")


def test_cancel_stops_the_work(app_url: str, degrade, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodings = 0
    decode = GenDegPipeline.decode

    def slow_decode(self: GenDegPipeline, latents: torch.Tensor) -> torch.Tensor:
        nonlocal decodings
        decodings += 1
        time.sleep(0.3)
        return decode(self, latents)

    monkeypatch.setattr(GenDegPipeline, "decode", slow_decode)
    # Its own client: a client's session does not always survive a cancelled job.
    job = Client(app_url, verbose=False).submit(handle_file(str(photo)), steps=200, api_name="/degrade")
    deadline = time.monotonic() + 30
    while decodings == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert decodings > 0
    job.cancel()
    time.sleep(2)
    stopped_at = decodings
    assert stopped_at < 6  # a whole run decodes six previews and two results
    time.sleep(1)
    assert decodings == stopped_at
    monkeypatch.undo()
    assert degrade(photo)[3]["seed"] == 0


def test_jobs_that_nobody_listens_to_end(app_url: str, degrade, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = BridgeScheduler.step

    def slow_step(self: BridgeScheduler, *values: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        time.sleep(0.1)
        return step(self, *values, **options)

    monkeypatch.setattr(BridgeScheduler, "step", slow_step)
    monkeypatch.setattr(jobs, "UNHEARD", 1.0)
    (upload,) = httpx.post(f"{app_url}gradio_api/upload", files={"files": photo.read_bytes()}).json()
    for _ in range(3):  # one runs, two wait: a minute in all
        httpx.post(f"{app_url}gradio_api/call/degrade", json={"data": [{"path": upload}, "haze", 0.1, 0.06, 0, 200]})
    started = time.monotonic()
    degrade(photo, steps=1)
    assert time.monotonic() - started < 15
    reached = steps
    time.sleep(1)
    assert steps == reached < 100, "none of them is at work any more"


def test_failure_of_the_model_is_a_sentence(degrade, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GenDegPipeline, "denoise", fail)
    with pytest.raises(AppError, match="A smaller working size or result needs less memory"):
        degrade(photo)
    monkeypatch.undo()
    assert degrade(photo)[3]["seed"] == 0


def test_model_and_preset(
    degrade, photo: Path, tiny_paper_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper").symlink_to(tiny_paper_folder)
    monkeypatch.setattr(checkpoints, "MODELS", tmp_path)
    name = f"{tmp_path.name}/paper"
    # All with one seed: what differs is the model and how it samples.
    first, bridge, own, fast = (
        pixels(degrade(photo, steps=1, resolution=256, **options)[0])
        for options in ({}, {"model": ""}, {"model": name}, {"model": name, "preset": "fast"})
    )
    assert np.array_equal(first, bridge) and own.shape == fast.shape == (240, 320, 3)
    assert not np.array_equal(own, fast)
    for options, sentence in (
        ({"model": str(tiny_paper_folder)}, "There is no model"),
        ({"preset": "fast"}, "for generators that start from noise"),
        ({"model": name, "preset": "slow"}, "There is no preset 'slow'"),
    ):
        with pytest.raises(AppError, match=sentence):
            degrade(photo, steps=1, **options)


def test_settings_follow_the_model(tiny_pipeline_folder: Path, tiny_paper_folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDEG_MODEL", str(tiny_paper_folder))
        notice, preset, *numbers, correction = model_settings(None, "haze")
        assert not notice["visible"] and preset["visible"] and not correction["visible"]
        assert numbers == [100, 7.5, 1.5, 256], "the smallest resolution of the app: the model's own is smaller"
        assert preset_settings(None, "haze", "fast") == (15, 7.5, 1.5)
        assert preset_settings(None, "haze", "own") == (100, 7.5, 1.5)
        patch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
        notice, preset, *_ = model_settings(None, "haze")
        assert not notice["visible"] and not preset["visible"] and preset["value"] == "own"
    assert model_settings("compact", "haze")[-1]["visible"], "the bundled model holds a structure correction"


def test_steps_and_guidance_follow_the_degradation(
    tiny_pipeline_folder: Path, tiny_paper_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    config = json.loads((folder / "model_index.json").read_text())
    config["guidance_scale"] = dict.fromkeys(DEGRADATIONS, 1.0) | {"rain": 2.0}
    config["num_inference_steps"] = dict.fromkeys(DEGRADATIONS, 2) | {"rain": 3}
    (folder / "model_index.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDEG_MODEL", str(folder))
        assert [model_settings(None, name)[2:4] for name in ("haze", "rain")] == [(2, 1.0), (3, 2.0)]
        assert [settings_of_degradation(None, name, "own") for name in ("haze", "rain")] == [(2, 1.0), (3, 2.0)]
        assert preset_settings(None, "rain", "own")[:2] == (3, 2.0)
        patch.setenv("GENDEG_MODEL", str(tiny_paper_folder))
        for preset in ("own", "fast"):
            kept = settings_of_degradation(None, "rain", preset)
            assert kept == (gr.skip(), gr.skip()), "one for all: they stay as they were set"


def test_answers_add_nothing_to_a_page_that_is_being_built(tiny_pipeline_folder: Path, photo: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
        patch.setenv("GRADIO_TEMP_DIR", str(photo.parent))
        with gr.Blocks() as page:  # Gradio puts every component that any thread makes meanwhile into it
            list_models(), list_restorers(), model_settings(None, "haze"), change_degradation("rain")
            settings = (2, 1.0, 1.0, 256, "photo", "", "auto", "own", None)
            steps = list(
                run_generate(Models(), Event(), False, None, {"path": str(photo)}, "haze", 0.1, 0.06, 1, *settings)
            )
            assert steps[-1][0].startswith("Done")
        assert not page.blocks


@pytest.mark.parametrize("name", ["none", ["compact"], 5, {}])
def test_a_model_that_is_not_listed_is_a_sentence(name: Any) -> None:
    with pytest.raises(UserError, match="There is no model"):
        model_source(name)


def test_missing_model_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENDEG_MODEL", "/nowhere")
    notice, *settings = model_settings(None, "haze")
    assert "No generator" in notice["value"] and "/nowhere" in notice["value"] and len(settings) == 6


@pytest.fixture
def restore(client: Client) -> Callable[..., tuple]:
    def restore(path: Path, clean: Path | None = None, **options: Any) -> tuple:
        files = {"image": handle_file(str(path))} | ({"clean": handle_file(str(clean))} if clean else {})
        return client.submit(**files, **options, api_name="/restore").result(timeout=120)

    return restore


def test_restore_with_all(restore, photo: Path) -> None:
    files, numbers = restore(photo)
    assert list(numbers) == ["nafnet", "promptir", "swin"]
    assert [Path(file).name for file in files] == [f"astronaut-{name}.png" for name in numbers]
    assert all(pixels(file).shape == (240, 320, 3) for file in files)
    assert all(n["seconds"] > 0 and n["psnr"] is None and n["ssim"] is None for n in numbers.values())


def test_restore_measures_against_the_clean_image(restore, photo: Path, tmp_path: Path) -> None:
    dark = tmp_path / "dark.png"
    Image.open(photo).point(lambda value: value // 2).save(dark)
    files, numbers = restore(dark, photo, restorers=["swin"])
    error = ((pixels(files[0]) - pixels(str(photo))) ** 2).mean()
    assert list(numbers) == ["swin"]
    assert numbers["swin"]["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.001)
    assert -1 < numbers["swin"]["ssim"] < 1


def test_restore_bad_requests(restore, client: Client, photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no pixels here")
    for arguments, options, sentence in (
        ([photo], {"restorers": ["unheard"]}, "no restorer 'unheard'; there are nafnet"),
        ([photo], {"restorers": [str(photo)]}, "There is no restorer"),
        ([photo], {"restorers": []}, "Choose at least one restorer"),
        ([tmp_path / "text.png"], {}, "not an image"),
        ([photo, tmp_path / "text.png"], {}, "not an image"),
        ([photo, tmp_path / "small.png"], {}, "The clean image has 30 × 20 pixels, the photograph 320 × 240"),
    ):
        with pytest.raises(AppError, match=sentence):
            restore(*arguments, **options)
    with pytest.raises(AppError, match="There is no photograph yet"):
        client.predict(None, api_name="/restore")


def test_restore_survives_a_failing_network(restore, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(NAFNet, "forward", fail)
    files, numbers = restore(photo, restorers=["nafnet", "swin"])
    assert "smaller photograph" in numbers["nafnet"]["error"] and len(files) == 1 and numbers["swin"]["seconds"] > 0
    with pytest.raises(AppError, match="nafnet: There is too little memory for it"):
        restore(photo, restorers=["nafnet"])
    monkeypatch.undo()
    assert len(restore(photo, restorers=["nafnet"])[0]) == 1


@pytest.fixture
def robustness(client: Client) -> Callable[..., tuple]:
    def robustness(path: Path, **options: Any) -> tuple:
        return client.submit(handle_file(str(path)), **options, api_name="/robustness").result(timeout=120)

    return robustness


def test_robustness(robustness, photo: Path) -> None:
    table, pictures, numbers = robustness(photo, restorers=["nafnet", "swin"], degradation="rain", seed=3)
    rows = numbers["rows"]
    assert [row["mu_asked"] for row in rows] == rising_mus("rain") and not numbers["failures"]
    assert rows[0]["psnr"] is None and rows[0]["ssim"] == pytest.approx(1), "the photograph itself"
    clean = pixels(pictures[0])
    for row, picture in zip(rows[1:], pictures[1:], strict=True):
        difference = pixels(picture) - clean
        assert row["mu_reached"] == pytest.approx(np.abs(difference).mean(), abs=0.002)
        assert row["psnr"] == pytest.approx(-10 * np.log10((difference**2).mean()), abs=0.001)
        assert 0 < row["nafnet_psnr"] < 60 and -1 < row["swin_ssim"] < 1 and "promptir_psnr" not in row
    lines = list(csv.DictReader(Path(table).read_text().splitlines()))
    assert [float(line["nafnet_psnr"]) for line in lines] == [row["nafnet_psnr"] for row in rows]
    assert Path(table).name == "astronaut-rain-robustness.csv" and lines[0]["psnr"] == "inf"
    assert {line["photograph"] for line in lines} == {photo.name}


def test_robustness_survives_a_failing_network(robustness, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(NAFNet, "forward", fail)
    numbers = robustness(photo)[2]
    assert numbers["failures"] == ["nafnet: There is too little memory for it. A smaller photograph needs less."]
    assert "nafnet_psnr" not in numbers["rows"][0] and numbers["rows"][1]["promptir_psnr"] > 0


def test_robustness_bad_requests(robustness, client: Client, photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    for path, options, sentence in (
        (photo, {"restorers": []}, "Choose at least one restorer"),
        (photo, {"restorers": [str(photo)]}, "There is no restorer"),
        (photo, {"degradation": "fog"}, "Choose one of: haze"),
        (photo, {"seed": -1}, "The seed must be a whole number"),
        (tmp_path / "small.png", {"restorers": ["nafnet"]}, "at least 32"),
    ):
        with pytest.raises(AppError, match=sentence):
            robustness(path, **options)
    with pytest.raises(AppError, match="There is no photograph yet"):
        client.predict(None, api_name="/robustness")


@pytest.fixture
def measured_here(tiny_pipeline_folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """What the page's function yields, without a page."""
    monkeypatch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(photo.parent))

    def measure(pairs: Any) -> Any:
        yield 0.5, "<b> is at work"
        yield None
        yield UserError("<i> has no head.")
        yield [{"psnr": np.inf if i == 0 else 30.0 - i, "ssim": None, "x_y_psnr": 20.0} for i in range(len(pairs))]

    def run(*values: Any, cancelled: Event | None = None) -> list:
        return list(run_robustness(Models(), lambda names: measure, cancelled, *values))

    return run


def test_what_the_page_shows_of_robustness(measured_here: Callable[..., list], photo: Path) -> None:
    *_, (status, psnr, ssim, gallery, table) = events = measured_here([], {"path": str(photo)}, "haze", 0)
    assert "&lt;b&gt; is at work" in "".join(str(event[0]) for event in events)
    assert status.startswith("Done: 8 pictures.") and "&lt;i&gt; has no head." in status
    frame = psnr["value"]
    assert list(frame.columns) == ["mu", "restorer", "psnr"]
    assert frame.restorer.value_counts().to_dict() == {"as it is": 7, "x_y": 8}, "infinite is nowhere in a plot"
    assert len(ssim["value"]) == 0 and len(gallery["value"]) == 8
    assert gallery["value"][0][1] == "the photograph" and gallery["value"][1][1].startswith("μ 0.")
    assert Path(table["value"]).is_file()
    cancelled = Event()
    cancelled.set()
    assert measured_here([], {"path": str(photo)}, "haze", 0, cancelled=cancelled)[-1][0] == "Cancelled."
    assert "There is no photograph yet" in measured_here([], None, "haze", 0)[-1][0]
