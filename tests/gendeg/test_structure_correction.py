import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from gendeg import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.detail import transfer_detail
from gendeg.structure_correction import LayeredCorrection, StructureCorrection
from restorers.nafnet import NAFNet
from training.benchmarks.restorers import nafnet_reference

SIZES = {"width": 4, "enc_blk_nums": (1, 2), "middle_blk_num": 1, "dec_blk_nums": (1, 1)}


def _random_weights(seed=0):
    """A state dict under the published names."""
    torch.manual_seed(seed)
    network = NAFNet(6, 3, **SIZES)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.state_dict()


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 7)])
def test_agrees_with_the_published_definition(size):
    state = _random_weights()
    clean, generated = torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    module = StructureCorrection.from_state_dict({f"module.{name}": value for name, value in state.items()})
    with torch.no_grad():
        expected = generated + nafnet_reference(state, torch.cat([clean, generated], dim=1))
        torch.testing.assert_close(module(clean, generated), expected, atol=1e-4, rtol=1e-4)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="6 input, 3 output"):
        StructureCorrection.from_state_dict(NAFNet(width=4).state_dict())


@pytest.fixture(scope="module")
def corrected(tiny_pipeline_folder, tmp_path_factory):
    """The tiny pipeline with a module, after a round trip through a folder."""
    pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
    module = StructureCorrection.from_state_dict(_random_weights())
    with torch.no_grad():
        module.ending.weight *= 0.05  # a correction, not an image of its own
    pipeline.register_modules(structure_correction=module)
    folder = tmp_path_factory.mktemp("corrected")
    pipeline.save_pretrained(folder)
    return load_pipeline(folder, device="cpu")


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return small.resize((121, 90), Image.Resampling.BICUBIC)


def _call(pipeline, photo, degradation, **options):
    generator = torch.Generator().manual_seed(0)
    return pipeline(photo, degradation, mu=0.1, sigma=0.1, generator=generator, output_type="pt", **options)


def test_saved_weights_come_back(corrected):
    for name, value in _random_weights().items():
        factor = 0.05 if name == "ending.weight" else 1
        torch.testing.assert_close(corrected.structure_correction.state_dict()[name], value * factor)


@pytest.fixture(scope="module")
def layered(tiny_pipeline_folder, tmp_path_factory):
    """The tiny pipeline with the layered module, after a round trip through a folder."""
    pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
    pipeline.register_modules(structure_correction=_random_layers())
    folder = tmp_path_factory.mktemp("layered")
    pipeline.save_pretrained(folder)
    return load_pipeline(folder, device="cpu")


def _random_layers(**sizes):
    torch.manual_seed(0)
    module = LayeredCorrection(**({"widths": (4, 8, 8), "noise_channels": 2} | sizes)).eval()
    for name, parameter in module.named_parameters():
        if name.startswith("last") or "modulation" in name:
            nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_auto_follows_the_policy(corrected, layered, photo, degradation):
    """The paper leaves out rain, snow and low light, which a residual blurs; layers do not."""
    for pipeline, applied in ((corrected, degradation in ("haze", "motion_blur", "raindrop")), (layered, True)):
        output = _call(pipeline, photo, degradation)
        assert output.structure_correction is applied
        assert (output.uncorrected is not None) is applied


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 7)])
def test_untrained_layers_leave_the_image_as_it_is(size):
    clean, generated = torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    module = LayeredCorrection(widths=(4, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(module.correct(clean, generated, "rain"), generated)


def test_layers_can_lay_any_colour_over_the_photograph():
    """g = 0, a = 1: what is seen is c, whatever was generated; a = 0: it is the photograph."""
    module = LayeredCorrection(widths=(4, 8))
    clean, generated = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for opacity, expected in ((20.0, torch.tensor([1.0, 0.0, -1.0])[:, None, None].expand(1, 3, 8, 8)), (0.0, clean)):
        module.last.bias.data = torch.tensor([-20.0, opacity, 20.0, 0.0, -20.0])
        with torch.no_grad():
            torch.testing.assert_close(module.correct(clean, generated, "snow"), expected)


def test_layers_begin_where_detail_transfer_ends(tiny_pipeline_folder, photo):
    pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
    transferred = _call(pipeline, photo, "snow").images
    pipeline.register_modules(structure_correction=LayeredCorrection(widths=(4, 4)))
    begun = _call(pipeline, photo, "snow").images
    # The photograph's own size is rounded to 8 bits: a value at the border of two levels may fall to either.
    torch.testing.assert_close(begun, transferred, atol=1 / 255 + 1e-6, rtol=0)
    assert (begun - transferred).abs().mean() < 1e-5


def test_layers_know_the_degradation_and_follow_the_seed():
    module = _random_layers()
    clean, generated = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def seeds(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    with torch.no_grad():
        rain = module.correct(clean, generated, "rain", seeds(1, 2))
        torch.testing.assert_close(module.correct(clean, generated, "rain", seeds(1, 2)), rain)
        alone = module.correct(clean[1:], generated[1:], "rain", seeds(2))
        torch.testing.assert_close(alone, rain[1:], atol=1e-5, rtol=1e-5)
        assert (module.correct(clean, generated, "rain", seeds(1, 3))[1] - rain[1]).abs().mean() > 1e-3
        assert (module.correct(clean, generated, "snow", seeds(1, 2)) - rain).abs().mean() > 1e-3


def test_a_call_follows_its_seed_through_the_layers(layered, photo):
    first, again = (_call(layered, photo, "snow", output_size="working") for _ in range(2))
    torch.testing.assert_close(first.images, again.images, atol=0, rtol=0)
    torch.testing.assert_close(first.corrected, first.images)
    assert (first.images - first.uncorrected).abs().mean() > 0.001


def test_structure_is_corrected_or_detail_transferred(corrected, photo):
    options = {"output_size": "working"}
    on, off = (_call(corrected, photo, "haze", structure_correction=choice, **options) for choice in (True, False))
    true = torch.from_numpy(np.asarray(photo) / 255).permute(2, 0, 1)[None].float()
    resized = F.interpolate(true, on.clean.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    for output in (on, off):
        torch.testing.assert_close(output.clean, resized, atol=0.01, rtol=0)
    rendered = corrected.decode(corrected.encode(on.clean) * corrected.vae.config.scaling_factor)
    rendered = rendered[0, :, : resized.shape[2], : resized.shape[3]]
    transferred = transfer_detail(on.clean[0], rendered, on.uncorrected[0])
    torch.testing.assert_close(off.images[0], transferred, atol=1e-4, rtol=0)
    torch.testing.assert_close(on.corrected, on.images)
    assert (on.images - on.uncorrected).abs().mean() > 0.001
    assert on.mu[0] == pytest.approx(float((on.images - on.clean).abs().mean()), abs=1e-5)


def test_a_pipeline_without_a_module_says_so(tiny_pipeline_folder, photo):
    pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
    assert _call(pipeline, photo, "haze").structure_correction is False
    with pytest.raises(ValueError, match="holds no structure correction module"):
        _call(pipeline, photo, "haze", structure_correction=True)
    with pytest.raises(ValueError, match='True, False or "auto"'):
        _call(pipeline, photo, "haze", structure_correction="maybe")
