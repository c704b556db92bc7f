import random

import pytest
import torch

from restorers import network_from_state_dict, restore
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
    "_fsdp_wrapped_module.",
    "network.",
    "any_name.net.",
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
        *(
            ["network"],
            ["model_optimised"],
            ["weights"],
            ["G"],
            ["net_G"],
            ["any name"],
            ["state_dict", "any name", "checkpoint"],
        ),
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
        ("ema_state_dict", "state_dict"),
        ("ema_model_state_dict", "model_state_dict"),
        ("network_ema", "any name"),
        ("averaged_model", "model"),
        ("ema", "params"),
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


def test_averaged_weights_in_the_forms_of_libraries():
    network = NAFNet(**SMALL)
    weights = network.state_dict()
    other = {name: value + 1 for name, value in weights.items()}
    shadows = {"decay": 0.999, "shadow": weights}
    swa = {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in weights.items()}
    ema_pytorch = {f"online_model.{name}": value for name, value in other.items()}
    ema_pytorch |= {f"ema_model.{name}": value for name, value in weights.items()} | {"step": torch.tensor(3)}
    for content in ({"model": other, "ema": shadows}, {"model": other, "swa": swa}, swa, ema_pytorch):
        _assert_same(network_from_state_dict(content), network)
    unnamed = {"decay": 0.999, "shadow_params": list(other.values())}
    _assert_same(network_from_state_dict({"any name": weights, "ema": unnamed}), network)


@pytest.mark.parametrize("generator", ["generator", "G", "netG", "net_g", "gen", "any_name"])
@pytest.mark.parametrize("discriminator", ["discriminator", "D", "netD", "net_d", "disc", "loss_fn"])
def test_beside_a_discriminator(generator, discriminator):
    network = NAFNet(**SMALL)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    nested = {discriminator: other, generator: network.state_dict()}
    flat = {f"{part}.{name}": value for part, state in nested.items() for name, value in state.items()}
    steps = {"optimizer_g": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3}
    for content in (nested | steps, flat, {"state_dict": flat} | steps):
        _assert_same(network_from_state_dict(content), network)


def test_which_of_two_networks_is_not_guessed():
    state = NAFNet(**SMALL).state_dict()
    for content in ({"first": state, "second": state}, {"first": {"x": state}, "second": {"x": state}}):
        with pytest.raises(ValueError, match="not the weights of one network but 'first', 'second'"):
            network_from_state_dict(content)
    with pytest.raises(ValueError, match=r"They are 200 in all, such as 'first.*' \["):
        network_from_state_dict({f"{part}.{name}": v for part in ("first", "second") for name, v in state.items()})


def test_counts_beside_weights():
    network = NAFNet(**SMALL)
    counts = {
        "n_averaged": torch.tensor(3),
        "intro.num_batches_tracked": torch.tensor(7),
        "total_ops": torch.zeros(1, dtype=torch.float64),
        "encoders.0.0.conv1.total_params": torch.zeros(1),
    }
    _assert_same(network_from_state_dict(counts | network.state_dict()), network)


def test_what_holds_itself_comes_to_an_end():
    content = {"epoch": 3}
    content |= {name: content for name in ("model", "ema", "net", "params", "state_dict")}
    with pytest.raises(ValueError, match="not the weights of one network but 'epoch', 'model'"):
        network_from_state_dict(content)


def test_insertions_within_names():
    network = NAFNet(**SMALL)
    checkpointed = {
        n.replace(".conv1.", "._checkpoint_wrapped_module.conv1."): v for n, v in network.state_dict().items()
    }
    _assert_same(network_from_state_dict(checkpointed), network)
    state = {name.replace("encoders.0.", "encoders.0.module."): v for name, v in network.state_dict().items()}
    state = {name.replace("ending.", "ending._orig_mod."): v for name, v in state.items()}
    _assert_same(network_from_state_dict(state), network)


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


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            {"weight": torch.zeros(3)},
            r"belong to none of NAFNet, PromptIR, SwinRestorer.* 1 in all, such as 'weight' \[3\]",
        ),
        ({"params": {"a": torch.zeros(2, 1)}, "epoch": 3}, r"belong to none of .* such as 'a' \[2, 1\]"),
        ({1: torch.zeros(2)}, r"belong to none of .* such as '1' \[2\]"),
        ({}, "not the weights of one network but nothing"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "not the weights of one network but 'epoch', 'optimizer'"),
        ({"params": {}}, "not the weights of one network but 'params'"),
    ],
)
def test_refuses_unknown_weights(state, sentence):
    with pytest.raises(ValueError, match=sentence):
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
    counted = theirs.state_dict() | {"total_ops": torch.zeros(1)}
    torch.testing.assert_close(network_from_state_dict({"any name": counted})(image), theirs(image).clamp(0, 1))
    last = {name: torch.full_like(value, 3e38) for name, value in theirs.state_dict().items() if "16" in name}
    assert len(last) == 2
    large = network_from_state_dict(theirs.state_dict() | last)
    with pytest.raises(ValueError, match="gave values that are not numbers"):  # infinite: spandrel makes it 0 or 1
        restore(large, image)
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
