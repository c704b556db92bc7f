import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gendeg import load_pipeline
from gendeg.blur import convolve, enlarged, way_of_light
from gendeg.degradations import DEGRADATIONS
from gendeg.image_forms import resize
from gendeg.pipeline import GenDegPipeline, predict
from runtime.errors import UserError


@pytest.fixture(scope="module")
def compact(tiny_pipeline_folder):
    return load_pipeline(tiny_pipeline_folder, device="cpu")


@pytest.fixture(scope="module")
def paper(tiny_paper_folder):
    return load_pipeline(tiny_paper_folder, device="cpu")


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (120, 90), Image.Resampling.BICUBIC
    )


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_forms_of_input_agree(compact, photo):
    array = np.asarray(photo)
    forms = (photo, array, array.astype(np.float32) / 255, torch.from_numpy(array / 255).permute(2, 0, 1).float())
    results = [compact(f, "haze", mu=0.1, sigma=0.1, generator=_seeded(), output_type="pt").images for f in forms]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(120, 90), (90, 120), (64, 64), (48, 35), (256, 33), (401, 333)])
def test_a_photograph_comes_back_at_its_own_size(compact, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    output = compact(image, "rain", mu=0.1, sigma=0.1)
    assert output.images[0].size == output.degradation_maps[0].size == size
    assert np.array_equal(output.clean[0], image), "the photograph itself is the ground truth"
    height, width = compact.working_size(*size[::-1])
    assert abs(width / height - size[0] / size[1]) < 0.06 * size[0] / size[1]
    assert min(height, width) >= 32 and max(height, width) <= compact.config.max_side


@pytest.mark.parametrize(("asked", "size"), [("working", (85, 64)), (45, (60, 45)), (90, (120, 90)), (300, (120, 90))])
@pytest.mark.parametrize("form", ["pil", "np", "pt"])
def test_other_sizes_can_be_asked_for(compact, photo, asked, size, form):
    output = compact(photo, "rain", mu=0.1, sigma=0.1, output_size=asked, output_type=form)
    for images in (output.images, output.clean, output.degradation_maps):
        got = {"pil": lambda i: i[0].size, "np": lambda i: i.shape[2:0:-1], "pt": lambda i: tuple(i.shape[:1:-1])}[form]
        assert got(images) == size


def test_photographs_of_one_shape_may_share_a_batch(compact, photo):
    large, small = photo.resize((240, 180)), photo
    together = compact([large, small], "snow", mu=0.1, sigma=0.1, generator=[_seeded(0), _seeded(0)], output_type="pt")
    assert [tuple(image.shape) for image in together.images] == [(3, 180, 240), (3, 90, 120)]
    alone = compact(large, "snow", mu=0.1, sigma=0.1, generator=_seeded(), output_type="pt")
    torch.testing.assert_close(together.images[0], alone.images[0], atol=1.001 / 255, rtol=0)
    assert together.mu[0] == pytest.approx(alone.mu[0], abs=1e-4)


@pytest.mark.parametrize("size", ["photo", "working", 50])
def test_reports_the_intensity_of_what_it_returns(compact, photo, size):
    def run(size):
        options = {"generator": _seeded(), "output_size": size, "output_type": "np"}
        return compact(photo.resize((240, 180)), "snow", mu=0.1, sigma=0.1, **options)

    output, working = run(size), run("working")
    difference = np.abs(output.images - output.clean)
    np.testing.assert_allclose(output.degradation_maps, difference, atol=1e-6)
    assert output.delivered_mu[0] == pytest.approx(difference.mean(), abs=1e-5)
    assert output.delivered_sigma[0] == pytest.approx(difference.std(), abs=1e-5)
    assert (output.mu, output.sigma) == (working.mu, working.sigma), "the size that is asked for comes later"
    assert working.mu[0] == pytest.approx(working.delivered_mu[0], abs=1e-6)


def test_degradations_keep_to_their_rules(compact, photo):
    """An untrained network darkens, brightens and tints; rain and snow lay white, and low light brightens nothing."""

    def change(name):
        output = compact(photo, name, generator=_seeded(), output_size="working", output_type="pt", physics=True)
        return output.images - output.clean

    assert change("rain").min() >= 0 and change("snow").min() >= 0
    assert change("low_light").max() <= 1e-6
    assert change("haze").min() < -0.01 and change("haze").max() > 0.01
    plain = compact(photo, "rain", generator=_seeded(), output_size="working", output_type="pt")
    assert (plain.images - plain.clean).min() < -0.01, "off, unless the model's own settings say otherwise"


def test_blur_at_the_photograph_s_size_is_that_of_its_small_copy(photo):
    photo = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    clean = resize(photo, (photo.shape[1] // 2, photo.shape[2] // 2)).float() / 255
    padded = torch.nn.functional.pad(clean[None], (4, 4, 0, 0), mode="reflect")[0]
    blurred = sum(padded[..., shift : shift + clean.shape[2]] for shift in range(9)) / 9
    large = convolve(photo, enlarged(way_of_light(clean, blurred), 2))
    assert large.dtype == torch.uint8 and large.shape == photo.shape
    result = resize(large, clean.shape[1:]).float() / 255
    assert (result - blurred).abs().mean() < 0.15 * (blurred - clean).abs().mean()


def test_values_that_are_not_numbers_never_come_out_as_a_black_picture(tiny_pipeline_folder, photo):
    for broken in (float("nan"), float("inf")):
        pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
        with torch.no_grad():
            pipeline.unet.conv_out.bias[0] = broken
        with pytest.raises(UserError, match="not numbers: its weights are damaged, or the precision is too low"):
            pipeline(photo, "haze", mu=0.1, sigma=0.1)


def test_seed_decides(compact, photo):
    one, same, other = (
        np.asarray(compact(photo, "rain", mu=0.1, sigma=0.1, generator=_seeded(s)).images[0], dtype=int)
        for s in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_a_batch_equals_single_calls(compact, photo):
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    same = {"sigma": 0.1, "output_size": "working", "output_type": "pt"}
    together = compact([photo, mirrored], "rain", mu=[0.1, None], generator=[_seeded(1), _seeded(2)], **same)
    alone = [
        compact(photo, "rain", mu=0.1, generator=_seeded(1), **same),
        compact(mirrored, "rain", mu=None, generator=_seeded(2), **same),
    ]
    torch.testing.assert_close(together.images, torch.cat([a.images for a in alone]), atol=1e-4, rtol=0)


def test_the_prompt_and_the_intensity_reach_the_network(paper, photo):
    def run(**changed):
        arguments = {"degradation": "haze", "mu": 0.1, "sigma": 0.1, "prompt": None} | changed
        return paper(photo, **arguments, num_inference_steps=2, generator=_seeded(), output_type="pt").images

    base = run()
    for changed in ({"degradation": "rain"}, {"mu": 0.3}, {"sigma": 0.3}, {"mu": None}, {"prompt": "a red car"}):
        assert not torch.allclose(run(**changed), base, atol=1e-6), changed


@pytest.mark.parametrize(
    ("text_scale", "image_scale", "evaluations"),
    [(7.5, 1.5, 3), (1.0, 1.0, 1), (1.5, 1.5, 2), (3.0, 1.0, 2), (0.0, 1.0, 1), (0.0, 0.0, 1)],
)
def test_guidance_is_the_papers_and_wastes_nothing(paper, text_scale, image_scale, evaluations):
    generator = _seeded()
    clean = torch.randn(1, 4, 8, 8, generator=generator)
    context, null = torch.randn(2, 1, 77, 16, generator=generator)
    batches = []
    hook = paper.unet.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    with torch.no_grad():
        result = paper.denoise(clean, context, null, 1, text_scale, image_scale, _seeded(1))
        hook.remove()
        assert batches == [evaluations]

        scheduler = paper.scheduler
        scheduler.set_timesteps(1)
        t = scheduler.timesteps[0]
        start = torch.randn(clean.shape, generator=_seeded(1)) * scheduler.init_noise_sigma
        inputs = scheduler.scale_model_input(start, t)
        e_cond, e_image, e_uncond = (
            predict(paper.unet, inputs, t, image, text)
            for image, text in ((clean, context), (clean, null), (torch.zeros_like(clean), null))
        )
    expected = e_uncond + text_scale * (e_cond - e_image) + image_scale * (e_image - e_uncond)
    sigma = scheduler.sigmas[0]
    torch.testing.assert_close(result, start - sigma * expected, atol=1e-3, rtol=1e-4)


def test_a_model_has_its_own_settings_for_each_degradation(compact, photo, tmp_path):
    settings = {name: value for name, value in compact.config.items() if name in ("resolution", "num_inference_steps")}
    guidance = dict.fromkeys(DEGRADATIONS, 1.0) | {"raindrop": 2.0}
    temperature = dict.fromkeys(DEGRADATIONS, (1.0, 1.0)) | {"raindrop": [1.0, 0.3], "haze": [0.0, 0.0]}
    own = GenDegPipeline(**compact.components, **settings, guidance_scale=guidance, temperature=temperature)
    own.save_pretrained(tmp_path)
    own = load_pipeline(tmp_path, device="cpu")
    batches = []
    own.unet.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))

    def run(pipeline, degradation, **options):
        options |= {"num_inference_steps": 2, "image_guidance_scale": 1.0, "output_size": "working"}
        return pipeline(photo, degradation, generator=_seeded(), output_type="pt", **options).images

    for degradation, settings in (
        ("raindrop", {"guidance_scale": 2.0, "temperature": (1.0, 0.3)}),
        ("haze", {"guidance_scale": 1.0, "temperature": (0.0, 0.0)}),
        ("rain", {"guidance_scale": 1.0}),
    ):
        asked = run(compact, degradation, **settings)
        torch.testing.assert_close(run(own, degradation), asked, atol=1e-4, rtol=0)
        other = run(own, degradation, guidance_scale=1.0, temperature=(1.0, 1.0))
        assert torch.allclose(other, asked, atol=1e-4) == (degradation == "rain"), "a call may ask for something else"
    assert batches == [2, 2, 1, 1] + 4 * [1, 1], "guidance costs only where it is"


def test_a_seed_draws_the_direction_of_a_blur(compact, photo, tmp_path):
    settings = {name: value for name, value in compact.config.items() if name in ("resolution", "num_inference_steps")}
    GenDegPipeline(**compact.components, **settings, draw_variants=True).save_pretrained(tmp_path)
    own = load_pipeline(tmp_path, device="cpu")

    def run(photos, degradation, generator, **options):
        return own(photos, degradation, generator=generator, num_inference_steps=1, **options).prompts

    variants = DEGRADATIONS["motion_blur"].variants
    drawn = run([photo] * 40, "motion_blur", _seeded(1))
    assert set(drawn) == set(variants)
    assert run([photo] * 40, "motion_blur", _seeded(1)) == drawn
    each = run([photo] * 3, "motion_blur", [_seeded(i) for i in range(3)])
    assert run(photo, "motion_blur", _seeded(2)) == each[2:], "as in a batch"
    assert run(photo, "motion_blur", None)[0] in variants
    assert run(photo, "motion_blur", None, phrase="in blurry conditions") == ["in blurry conditions"]
    assert run(photo, "motion_blur", None, prompt="a dog")[0].removeprefix("a dog, ") in variants
    assert run(photo, "haze", None) == ["in hazy conditions"]

    def towards(phrase, scale):
        options = {"phrase": phrase, "guidance_scale": scale, "num_inference_steps": 1, "output_type": "pt"}
        return own(photo, "motion_blur", generator=_seeded(), **options).images

    torch.testing.assert_close(towards("in blurry conditions", 5.0), towards("in blurry conditions", 1.0))
    assert not torch.allclose(towards(variants[0], 5.0), towards(variants[0], 1.0), atol=1e-4)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors is missing or damaged"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors is missing or damaged"),
        ("tokenizer/tokenizer.json", "lacks files of a generator, or they are damaged"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json is missing or damaged"),
        ("model_index.json", "damaged/model_index.json is missing or damaged"),
    ],
)
def test_damaged_folders_are_answered_with_a_sentence(tiny_pipeline_folder, tmp_path, file, sentence):
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "damaged")
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(ValueError, match=sentence):
        load_pipeline(folder, device="cpu")


def test_paper_process_saves_and_loads(paper, photo, tmp_path):
    paper.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, device="cpu")
    arguments = {"degradation": "haze", "mu": 0.1, "sigma": 0.1, "num_inference_steps": 2, "output_type": "pt"}
    original = paper(photo, generator=_seeded(), **arguments)
    torch.testing.assert_close(
        loaded(photo, generator=_seeded(), **arguments).images, original.images, atol=1e-4, rtol=0
    )


def test_callback_sees_every_step_and_can_end_the_call(compact, photo):
    steps = []

    def callback(pipeline, step, timestep, tensors):
        image = pipeline.decode(tensors["predicted"])
        assert image.shape[1] == 3 and 0 <= image.min() and image.max() <= 1
        steps.append(step)

    compact(photo, "haze", num_inference_steps=4, callback_on_step_end=callback)
    assert steps == [0, 1, 2, 3]

    def stop(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compact(photo, "haze", callback_on_step_end=stop)
    assert compact(photo, "haze").images, "the pipeline works on after an interrupted call"


@pytest.mark.parametrize("word", ["a very long story about nothing ", "\U0001f327\ufe0f", "雨の降る町の夜の通り"])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_long_caption_never_pushes_the_phrase_out(paper, compact, word, count):
    for pipeline in (paper, compact):
        for phrase in ("in hazy conditions", "in rainy conditions"):
            prompt = pipeline.prompt(word * count, phrase)
            assert prompt.endswith(phrase)
            assert len(pipeline.tokenizer(prompt).input_ids) <= pipeline.tokenizer.model_max_length
    assert compact.prompt("a", "in b " * 100) == "in b " * 100


def test_intensities_that_are_missing(compact, photo):
    def run(mu, **options):
        return compact([photo] * 2, "haze", mu=mu, sigma=0.1, generator=_seeded(0), output_type="np", **options).images

    without = run(None, match_intensity=True)
    for missing in (float("nan"), np.array(np.nan), torch.tensor(torch.nan), [None, float("nan")]):
        assert np.array_equal(run(missing, match_intensity=True), without)
    assert np.array_equal(run(torch.tensor(0.2)), run(0.2))


def test_a_generator_for_each_image(compact, photo):
    def run(*seeds):
        return compact([photo] * 2, "rain", generator=tuple(map(_seeded, seeds)), output_type="np").images

    first, second = run(1, 2)
    assert not np.array_equal(first, second)
    assert np.array_equal(run(2, 1), [second, first])
    with pytest.raises(ValueError, match="2 images but 1 values of generator"):
        run(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"degradation": "fog"}, "Unknown degradation"),
        ({"mu": -0.1}, "mu must lie between 0 and 0.7"),
        ({"mu": float("inf")}, "mu must lie between 0 and 0.7"),
        ({"sigma": 0.5}, "sigma must lie between 0 and 0.4"),
        ({"mu": [0.1, 0.2]}, "1 images but 2 values of mu"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"output_type": "jpg"}, "output_type"),
        ({"resolution": 4}, "resolution"),
        ({"image": Image.new("RGB", (1, 1))}, "at least 32"),
        ({"image": []}, "no image"),
        ({"image": "photo.jpg"}, "PIL image"),
        ({"image": np.full((64, 64, 3), 7.0)}, r"\[0, 1\]"),
        ({"image": np.full((64, 64, 3), np.nan)}, r"\[0, 1\]"),
        ({"image": np.zeros((64, 64, 7), np.uint8)}, r"\[H, W, 3\]"),
        ({"image": [Image.new("RGB", (64, 64)), Image.new("RGB", (64, 128))]}, "aspect"),
        ({"image": Image.new("RGB", (20_000, 32))}, "20000 x 32 pixels, too long and narrow"),
        ({"image": Image.new("RGB", (40, 321))}, "too long and narrow"),
        ({"output_size": 0}, "output_size"),
        ({"output_size": "original"}, "output_size"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(compact, photo, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        compact(**({"image": photo, "degradation": "haze"} | arguments))


def test_unknown_models_are_answered_with_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index.json"):
        load_pipeline(tmp_path)
    with pytest.raises(ValueError, match=r"No generator 'nobody/nothing'"):
        load_pipeline("nobody/nothing")
