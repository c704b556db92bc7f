import pytest
import torch

from restorers.layers import pad_to_multiple
from restorers.nafnet import NAFNet
from restorers.promptir import ChannelAttention, Prompt, PromptIR
from restorers.swin import SwinRestorer
from restorers.whole_image import WholeImage
from runtime.torchvision_free import import_module
from training.benchmarks.restorers import nafnet_reference, promptir_reference

PROMPTIR_SMALL = {
    "dim": 16,
    "num_blocks": (1, 2, 1, 2),
    "num_refinement_blocks": 1,
    "prompt_dims": (8, 16, 24),
    "prompt_sizes": (16, 8, 5),
}


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (1, 1), (17, 3)])
@pytest.mark.parametrize(
    "config", [{"width": 8, "enc_blk_nums": (1, 2, 1), "dec_blk_nums": (1, 0, 2)}, {"img_channel": 6, "out_channel": 3}]
)
@torch.no_grad()
def test_nafnet_agrees_with_the_published_definition(named_weights, size, config):
    network = named_weights(NAFNet(**{"width": 8, "enc_blk_nums": (1, 1, 1, 2), "dec_blk_nums": (1, 1, 1, 1)} | config))
    image = torch.rand(2, config.get("img_channel", 3), *size)
    expected = nafnet_reference(network.state_dict(), image)
    assert expected.shape == (2, 3, *size)
    assert (expected - image[:, :3]).abs().mean() > 0.05, "the comparison must not be of two identities"
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (40, 56), (37, 50), (3, 17)])
@pytest.mark.parametrize("config", [{}, {"bias": True, "heads": (2, 1, 8, 4), "unused_layers": False}])
@torch.no_grad()
def test_promptir_agrees_with_the_published_definition(named_weights, size, config):
    network = named_weights(PromptIR(**PROMPTIR_SMALL | config))
    image = torch.rand(2, 3, *size)
    padded = pad_to_multiple(image, 8)
    if size == (37, 50):
        assert torch.equal(padded, torch.nn.functional.pad(image, (0, 6, 0, 3), mode="reflect"))
    expected = promptir_reference(network.state_dict(), padded)[..., : size[0], : size[1]]
    assert (expected - image).abs().mean() > 0.05
    torch.testing.assert_close(network(image), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_over_many_pixels_does_not_overflow_in_half_precision(named_weights):
    attention = named_weights(ChannelAttention(16, heads=2, bias=False))
    x = 4 + torch.rand(1, 16, 96, 96)  # products of queries and keys, summed over the pixels, exceed 65504
    expected = attention(x)
    torch.testing.assert_close(attention.half()(x.half()).float(), expected, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_prompts_of_tiles_are_cut_from_the_prompt_of_the_whole():
    prompt, x = Prompt(dim=4, length=3, size=5, channels=6), torch.rand(2, 6, 24, 40)
    whole = prompt(x)
    with WholeImage() as image:
        torch.testing.assert_close(prompt(x), whole)
        image.part = (8 / 24, 20 / 24, 0, 32 / 40)
        tile = prompt(torch.rand(2, 6, 12, 32))
    torch.testing.assert_close(tile[..., 1:-1, 1:-1], whole[..., 9:19, 1:31])


# Published layouts: total parameters and some names with their shapes.
LAYOUTS = [
    (
        NAFNet,
        {},
        67_888_835,
        {
            "intro.weight": (64, 3, 3, 3),
            "ending.weight": (3, 64, 3, 3),
            "encoders.3.27.conv2.weight": (1024, 1, 3, 3),
            "encoders.0.0.sca.1.bias": (64,),
            "middle_blks.0.beta": (1, 1024, 1, 1),
            "decoders.1.0.norm2.weight": (256,),
            "ups.0.0.weight": (2048, 1024, 1, 1),
            "downs.3.bias": (1024,),
        },
    ),
    (
        NAFNet,
        {
            "img_channel": 6,
            "out_channel": 3,
            "enc_blk_nums": (2, 2, 4, 8),
            "middle_blk_num": 12,
            "dec_blk_nums": (2, 2, 2, 2),
        },
        115_984_643,
        {"intro.weight": (64, 6, 3, 3), "ending.weight": (3, 64, 3, 3), "middle_blks.11.gamma": (1, 1024, 1, 1)},
    ),
    (
        PromptIR,
        {},
        35_592_263,
        {
            "patch_embed.proj.weight": (48, 3, 3, 3),
            "prompt3.prompt_param": (1, 5, 320, 16, 16),
            "prompt1.linear_layer.weight": (5, 96),
            "chnl_reduce3.weight": (256, 320, 1, 1),
            "reduce_noise_channel_1.weight": (48, 112, 1, 1),
            "reduce_noise_channel_3.weight": (192, 448, 1, 1),
            "latent.7.attn.temperature": (8, 1, 1),
            "noise_level1.attn.temperature": (4, 1, 1),
            "noise_level3.ffn.project_in.weight": (3744, 704, 1, 1),
            "reduce_noise_level2.weight": (192, 320, 1, 1),
            "down1_2.body.0.weight": (24, 48, 3, 3),
            "up4_3.body.0.weight": (384, 192, 3, 3),
            "reduce_chan_level3.weight": (192, 288, 1, 1),
            "decoder_level1.0.attn.temperature": (1, 1, 1),
            "refinement.3.norm1.body.bias": (96,),
            "output.weight": (3, 96, 3, 3),
        },
    ),
]


@pytest.mark.parametrize(("network", "config", "parameters", "shapes"), LAYOUTS)
def test_has_the_published_layout(network, config, parameters, shapes):
    with torch.device("meta"):
        state = network(**config).state_dict()
    assert sum(value.numel() for value in state.values()) == parameters
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_compact_swin_is_compact_and_starts_as_the_identity():
    network = SwinRestorer()
    assert sum(p.numel() for p in network.parameters()) < 5e6
    for size in ((1, 1), (30, 200)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(network(image), image)


def test_every_parameter_learns():
    small = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2}
    nafnet = NAFNet(width=4, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1))
    promptir = PromptIR(**PROMPTIR_SMALL, unused_layers=False)
    for network in (nafnet, promptir, SwinRestorer(encoder_kwargs=small, stem_width=4, decoder_width=8)):
        network(torch.rand(1, 3, 40, 24)).square().mean().backward()
        assert not [name for name, p in network.named_parameters() if p.grad is None], network.architecture


@torch.no_grad()
def test_swin_has_no_patch_borders(named_weights):
    """With any weights, steps across the borders of 4x4 patches are no larger than elsewhere."""
    network = named_weights(SwinRestorer(encoder_kwargs={"embed_dim": 16, "num_heads": (1, 2, 2, 4), "window_size": 4}))
    ramp = torch.linspace(0.2, 0.8, 128).expand(1, 3, 128, 128)
    change = network(ramp) - ramp
    steps = (change[..., 1:] - change[..., :-1]).abs().mean((0, 1, 2))[31:-32]  # positions 31 .. 95: step i -> i + 1
    at_borders = steps[0::4].mean()
    elsewhere = torch.cat([steps[1::4], steps[2::4], steps[3::4]]).mean()
    assert at_borders < 1.5 * elsewhere


def test_swin_says_what_is_wrong():
    with pytest.raises(ValueError, match="no_such_swin"):
        SwinRestorer("no_such_swin")
    with pytest.raises(ValueError, match="patches of 4"):
        SwinRestorer(
            encoder_kwargs={"patch_size": 2, "embed_dim": 8, "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)}
        )


@torch.no_grad()
def test_nafnet_agrees_with_spandrels(named_weights):
    try:
        import_module("spandrel")
    except ImportError:
        pytest.skip("spandrel is not installed")
    from spandrel.architectures.NAFNet import NAFNetArch

    network = named_weights(NAFNet(width=8, enc_blk_nums=(1, 2), dec_blk_nums=(1, 1)))
    image = torch.rand(1, 3, 21, 34)
    theirs = NAFNetArch().load(network.state_dict()).model.eval()
    torch.testing.assert_close(network(image), theirs(image), atol=1e-5, rtol=1e-5)
