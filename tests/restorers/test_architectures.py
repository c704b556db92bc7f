import random

import pytest
import torch

from restorers import network_from_state_dict
from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.swin import SwinRestorer
from runtime.torchvision_free import import_module


def _random_network(seed):
    rng = random.Random(seed)
    kind = (NAFNet, PromptIR, SwinRestorer)[seed % 3]
    if kind is NAFNet:
        levels = rng.randint(1, 4)
        config = {
            "img_channel": rng.choice([1, 3, 6]),
            "out_channel": rng.choice([1, 3]),
            "width": rng.choice([2, 4, 6]),
            "enc_blk_nums": [rng.randint(0, 3) for _ in range(levels)],
            "middle_blk_num": rng.randint(0, 3),
            "dec_blk_nums": [rng.randint(0, 3) for _ in range(levels)],
        }
    elif kind is PromptIR:
        channels = rng.choice([1, 3])
        config = {
            "inp_channels": channels,
            "out_channels": channels,
            "dim": rng.choice([8, 16]),
            "num_blocks": [rng.randint(1, 2) for _ in range(4)],
            "num_refinement_blocks": rng.randint(1, 3),
            "heads": [rng.choice([1, 2, 4]) for _ in range(4)],
            "ffn_expansion_factor": rng.choice([1.5, 2.0, 2.66, 3.1]),
            "bias": rng.random() < 0.5,
            "prompt_dims": [4 * rng.randint(1, 4) for _ in range(3)],
            "prompt_sizes": [rng.randint(2, 9) for _ in range(3)],
            "prompt_len": rng.randint(1, 6),
            "unused_layers": rng.random() < 0.5,
        }
    else:
        config = {
            "encoder": "swin_tiny_patch4_window7_224",
            "encoder_kwargs": {
                "embed_dim": rng.choice([8, 16]),
                "depths": [rng.randint(1, 2) for _ in range(4)],
                "num_heads": [rng.choice([1, 2, 4]) for _ in range(4)],
                "window_size": rng.choice([2, 4, 7]),
                "mlp_ratio": rng.choice([2.0, 2.5, 4.0]),
            },
            "stem_width": rng.choice([4, 6]),
            "decoder_width": rng.choice([8, 12]),
            "decoder_blocks": rng.randint(1, 2),
        }
    return kind(**config), config


@pytest.mark.parametrize("seed", range(24))
@torch.no_grad()
def test_recovers_random_configurations(seed):
    network, config = _random_network(seed)
    found = network_from_state_dict(network.state_dict())
    assert type(found) is type(network)
    assert found.arguments.keys() == config.keys()
    exact = {key: value for key, value in config.items() if key != "ffn_expansion_factor"}
    assert {key: found.arguments[key] for key in exact} == exact
    image = torch.rand(1, config.get("img_channel", config.get("inp_channels", 3)), 19, 12)
    torch.testing.assert_close(found(image), network.eval()(image))


def test_recovers_the_published_factor():
    assert (
        network_from_state_dict(PromptIR(num_blocks=(1, 1, 1, 1)).state_dict()).arguments["ffn_expansion_factor"]
        == 2.66
    )


SMALL = {"width": 4, "enc_blk_nums": (1, 1), "dec_blk_nums": (1, 1)}
PREFIXES = [
    "params.",
    "params_ema.",
    "module.",
    "net.",
    "state_dict.",
    "state_dict.net.",
    "module.net.",
    "model.module.",
    "_orig_mod.",
    "module._orig_mod.",
    "net_g.module.",
    "generator.",
    "generator_ema.",
    "model_ema.module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_unwraps_prefixes(prefix):
    network = NAFNet(**SMALL)
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    _assert_same(network_from_state_dict(state | {"epoch": 3}), network)


@pytest.mark.parametrize(
    "keys",
    [
        *(["params"], ["params_ema"], ["state_dict"], ["model", "params"], ["state_dict_ema"], ["model_ema"]),
        *(["generator"], ["net_g"], ["net"], ["ema", "module"], ["model_state_dict", "generator"]),
    ],
)
def test_unwraps_nested_dictionaries(keys):
    network = NAFNet(**SMALL)
    state = {f"net.{name}": value.half() for name, value in network.half().state_dict().items()}
    for key in keys:
        state = {key: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    found = network_from_state_dict(state)
    assert next(found.parameters()).dtype == torch.float32
    _assert_same(found, network.float())


@pytest.mark.parametrize(
    ("averaged", "last"),
    [
        ("params_ema", "params"),
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("generator_ema", "generator"),
    ],
)
def test_averaged_weights_are_preferred(averaged, last):
    network = NAFNet(**SMALL)
    other = {name: value + 1 for name, value in network.state_dict().items()}
    _assert_same(network_from_state_dict({last: other, averaged: network.state_dict()}), network)
    together = {f"{last}.{name}": value for name, value in other.items()}
    together |= {f"{averaged}.{name}": value for name, value in network.state_dict().items()}
    _assert_same(network_from_state_dict({"state_dict": together}), network)
    _assert_same(network_from_state_dict({averaged: {"decay": 0.999}, last: network.state_dict()}), network)


def test_insertions_within_names():
    network = NAFNet(**SMALL)
    state = {name.replace("encoders.0.", "encoders.0.module."): v for name, v in network.state_dict().items()}
    state = {name.replace("ending.", "ending._orig_mod."): v for name, v in state.items()}
    _assert_same(network_from_state_dict(state), network)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda tensor: tensor * float("nan"), "not numbers"),
        (lambda tensor: tensor + float("inf"), "not numbers"),
        (lambda tensor: tensor.long(), "int64"),
        (lambda tensor: tensor.double() + 1e200, "more than float32 can hold"),
    ],
)
def test_refuses_weights_that_are_no_numbers(wrong, sentence):
    state = NAFNet(**SMALL).state_dict()
    with pytest.raises(ValueError, match=f"The tensor 'ending.weight' holds .*{sentence}"):
        network_from_state_dict(state | {"ending.weight": wrong(state["ending.weight"])})


def test_has_weights_of_its_own():
    state = NAFNet(**SMALL).state_dict()
    network = network_from_state_dict(state)
    state["intro.weight"].fill_(7)
    assert not network.training
    assert network.state_dict()["intro.weight"].max() < 7


def test_refuses_what_does_not_fit():
    state = NAFNet(**SMALL).state_dict()
    with pytest.raises(ValueError, match=r"1 parameters differ, such as 'downs.1.bias' .*found nothing"):
        network_from_state_dict({name: value for name, value in state.items() if name != "downs.1.bias"})
    with pytest.raises(ValueError, match=r"'surprise' \(expected nothing, found \[2\]\)"):
        network_from_state_dict(state | {"surprise": torch.zeros(2)})
    with pytest.raises(ValueError, match="encoders"):
        network_from_state_dict(state | {"encoders.0.0.conv1.weight": torch.zeros(3, 3)})
    state = PromptIR(dim=8, num_blocks=(1, 1, 1, 1)).state_dict()
    with pytest.raises(ValueError, match="promptir"):
        network_from_state_dict({name: value for name, value in state.items() if "latent" not in name})


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(3)}, {"epoch": 3}, {"params": {}}, {1: torch.zeros(2)}])
def test_refuses_unknown_weights(state):
    with pytest.raises(ValueError, match="belong to none of NAFNet, PromptIR, SwinRestorer"):
        network_from_state_dict(state)


def test_refuses_other_objects():
    with pytest.raises(ValueError, match="mapping"):
        network_from_state_dict([torch.zeros(3)])


@torch.no_grad()
def test_others_come_from_spandrel():
    try:
        import_module("spandrel")
    except ImportError:
        pytest.skip("spandrel is not installed")
    from spandrel.architectures.DnCNN import DnCNN

    theirs = DnCNN(in_nc=3, out_nc=3, nc=4, nb=9, act_mode="R").eval()
    image = torch.rand(1, 3, 20, 31)
    torch.testing.assert_close(network_from_state_dict(theirs.state_dict())(image), theirs(image).clamp(0, 1))
    grey = DnCNN(in_nc=1, out_nc=1, nc=4, nb=9, act_mode="R")
    with pytest.raises(ValueError, match="keeps RGB"):
        network_from_state_dict(grey.state_dict())
    averaged = network_from_state_dict({"state_dict_ema": theirs.state_dict(), "epoch": 3})
    torch.testing.assert_close(averaged(image), theirs(image).clamp(0, 1))
    with pytest.raises(ValueError, match=r"The tensor 'model.0.weight' holds values that are not numbers"):
        network_from_state_dict(theirs.state_dict() | {"model.0.weight": theirs.model[0].weight * float("nan")})


def _assert_same(found, expected):
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
