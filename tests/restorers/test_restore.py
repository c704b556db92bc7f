import sys

import pytest
import torch
from torch import nn

from restorers.nafnet import NAFNet
from restorers.restore import OVERLAP, restore


class Local(nn.Module):
    """Depends on a small neighbourhood only: tiles must not change it at all. Keeps the sizes it was called with."""

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


@pytest.mark.parametrize("size", [(500, 700), (701, 193), (193, 1001), (640, 640)])
def test_tiles_equal_the_whole(size):
    network = Local()
    image = 0.3 + 0.4 * torch.rand(2, 3, *size)
    whole = restore(network, image)
    assert len(network.sizes) == 1
    tiled = restore(network, image, memory_budget=_budget(2 * 200 * 200))
    assert len(network.sizes) > 4
    assert all(h * w <= 208 * 208 and h % 16 == 0 and w % 16 == 0 for h, w in network.sizes[1:])
    assert len(set(network.sizes[1:])) == 1
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_budget_decides_how_many_tiles():
    network, image = Local(), torch.rand(1, 3, 600, 600)
    counts = []
    for pixels in (1, 230**2, 400**2, 608**2):
        network.sizes.clear()
        restore(network, image, memory_budget=_budget(pixels))
        counts.append(len(network.sizes))
    assert counts[0] >= counts[1] > counts[2] > counts[3] == 1
    network.sizes.clear()
    restore(network, image, memory_budget=0)
    assert min(network.sizes[0]) >= 2 * OVERLAP, "tiles that are all overlap would take forever"


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
    network, image, calls = Local(), torch.rand(1, 3, 400, 400), []
    restore(network, image, _budget(200 * 200), lambda done, total: calls.append((done, total)))
    total = len(network.sizes)
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
    assert len(network.sizes) == 2
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


def test_nafnet_in_tiles_is_close_to_the_whole(named_weights):
    network = named_weights(NAFNet(width=4, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1)))
    with torch.no_grad():
        network.ending.weight *= 0.2
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 14), (480, 560), mode="bicubic").clamp(0, 1)
    whole = restore(network, smooth)
    budget = 300 * 300 * network.floats_per_pixel * 4
    tiled = restore(network, smooth, memory_budget=budget)
    assert (whole - smooth).abs().mean() > 0.02
    assert 0 < (tiled - whole).abs().mean() < 2 / 255


def test_imports_neither_gendeg_nor_training_nor_timm():
    import subprocess

    code = "import restorers, sys; print([m for m in ('gendeg', 'training', 'gradio', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
