import sys

import pytest
import torch
from skimage import data
from torch import nn
from torch.nn.functional import interpolate

from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.registry import load_restorer
from restorers.restore import OVERLAP, VIEW, restore
from restorers.swin import SwinRestorer
from runtime.errors import UserError


class Local(nn.Module):
    """Depends on a small neighbourhood only: tiles must not change it at all.

    Keeps the sizes that it was called with; the first is the view of the whole image where that is large.
    """

    multiple = 16
    floats_per_pixel = 10

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 9, padding=4)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[-2:]))
        return x + self.conv(x) * 0.1


def _budget(pixels):
    return pixels * Local.floats_per_pixel * 4


@pytest.mark.parametrize("size", [(500, 700), (1401, 193), (193, 1500), (640, 640)])
def test_tiles_equal_the_whole(size):
    network = Local()
    image = 0.3 + 0.4 * torch.rand(2, 3, *size)
    whole = restore(network, image)
    view, *sizes = network.sizes
    assert VIEW * 0.95 < view[0] * view[1] < VIEW * 1.1
    assert len(sizes) == 1
    network.sizes.clear()
    tiled = restore(network, image, memory_budget=_budget(2 * 200 * 200))
    sizes = network.sizes[1:]
    assert len(sizes) > 4
    assert all(h * w <= 208 * 208 and h % 16 == 0 and w % 16 == 0 for h, w in sizes)
    assert len(set(sizes)) == 1
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_budget_decides_how_many_tiles():
    network, image = Local(), torch.rand(1, 3, 600, 600)
    counts = []
    for pixels in (1, 230**2, 400**2, 608**2):
        network.sizes.clear()
        restore(network, image, memory_budget=_budget(pixels))
        counts.append(len(network.sizes) - 1)
    assert counts[0] >= counts[1] > counts[2] > counts[3] == 1
    network.sizes.clear()
    restore(network, image, memory_budget=0)
    assert min(network.sizes[1]) >= 2 * OVERLAP, "tiles that are all overlap would take forever"


def test_small_images_are_never_cut():
    network = Local()
    restore(network, torch.rand(1, 3, 511, 513), memory_budget=0)
    assert network.sizes == [(512, 528)]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 16), (31, 33)])
def test_any_size(size):
    network, image = Local(), torch.rand(1, 3, *size)
    restored = restore(network, image)
    assert restored.shape == image.shape
    assert all(side % 16 == 0 for side in network.sizes[0])
    assert restored.min() >= 0 and restored.max() <= 1


def test_pads_by_reflection():
    network, image = Local(), 0.3 + 0.4 * torch.rand(1, 3, 20, 30)
    padded = torch.nn.functional.pad(image, (0, 2, 0, 12), mode="reflect")
    with torch.no_grad():
        torch.testing.assert_close(restore(network, image), network(padded)[..., :20, :30])


def test_progress_and_cancellation():
    network, image, calls = Local(), torch.rand(1, 3, 520, 520), []
    restore(network, image, _budget(200 * 200), lambda done, total: calls.append((done, total)))
    total = len(network.sizes) - 1
    assert calls == [(done, total) for done in range(total + 1)]

    class Cancelled(Exception):
        pass

    def cancel(done, total):
        if done == 2:
            raise Cancelled

    network.sizes.clear()
    network.train()
    with pytest.raises(Cancelled):
        restore(network, image, _budget(200 * 200), cancel)
    assert len(network.sizes) == 1 + 2
    assert network.training, "the network must be left as it was"


def test_leaves_the_image_alone_and_keeps_its_type():
    image = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    before = image.clone()
    assert restore(Local(), image).dtype == torch.float64
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=int), torch.zeros(1, 3, 0, 8)],
)
def test_refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match="float tensor"):
        restore(Local(), image)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [(9, 8), (520, 640)])
def test_an_answer_that_is_no_picture_is_a_sentence(value, size):
    """In the last tile, too: clamped, it would be black or white."""

    class Wrong(nn.Module):
        def forward(self, x):
            return torch.where(x == 1, value, x)

    image = torch.rand(1, 3, *size) * 0.9
    image[0, 1, -1, -1] = 1
    with pytest.raises(UserError, match="mine gave values that are not numbers"):
        restore(Wrong(), image, 0, name="mine")


def _sky(height, width):
    """A smooth gradient with 1 % noise: next to nothing to tell one part from another by."""
    return (torch.linspace(0.2, 0.8, height)[:, None] + 0.01 * torch.randn(1, 3, height, width)).clamp(0, 1)


def _photo(height, width):
    photo = torch.from_numpy(data.coffee()).permute(2, 0, 1)[None] / 255
    return interpolate(photo, (height, width), mode="bicubic").clamp(0, 1)


def _assert_tiles_equal_the_whole(network, image, pixels):
    """Also returns by how much the network changes the image, on average."""
    tiles = []
    whole = restore(network, image, memory_budget=1 << 40)
    tiled = restore(network, image, pixels * network.floats_per_pixel * 4, lambda done, total: tiles.append(total))
    assert tiles[0] > 1
    assert (tiled - whole).abs().max() < 2 / 255
    return (whole - image).abs().mean()


@pytest.mark.parametrize("image", [_sky, _photo])
@pytest.mark.parametrize("kind", ["nafnet", "promptir", "swin"])
def test_statistics_are_those_of_the_whole_image(named_weights, kind, image):
    if kind == "nafnet":
        network = named_weights(NAFNet(width=4, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1)))
        last = network.ending
    elif kind == "promptir":
        sizes = {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "prompt_dims": (4, 4, 4)}
        network = named_weights(PromptIR(dim=4, prompt_sizes=(8, 5, 4), **sizes))
        last = network.output
    else:
        encoder = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2}
        network = named_weights(SwinRestorer(encoder_kwargs=encoder, stem_width=4, decoder_width=8))
        last = network.head
    with torch.no_grad():
        last.weight *= 0.2
    change = _assert_tiles_equal_the_whole(network, image(480, 1120), 480 * 680)
    assert change > 1 / 255, "the comparison must not be of two identities"


@pytest.mark.parametrize("name", ["nafnet", "promptir", "swin"])
def test_bundled_restorers_treat_all_of_the_sky_alike(name):
    _assert_tiles_equal_the_whole(load_restorer(name, device="cpu").network, _sky(384, 1024), 384 * 680)


def test_imports_neither_gendeg_nor_training_nor_timm():
    import subprocess

    code = "import restorers, sys; print([m for m in ('gendeg', 'training', 'gradio', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
