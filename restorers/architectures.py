"""Which network do these weights belong to? Told by the names of the parameters, its sizes by their shapes.

What is not ours is offered to spandrel, if it is installed.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from restorers.folder import CONFIG
from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.swin import SwinRestorer
from runtime.errors import UserError
from runtime.settings import check_settings
from runtime.torchvision_free import import_module
from runtime.weights import check_tensors

State = Mapping[str, torch.Tensor]
NETWORKS: dict[str, type[nn.Module]] = {cls.architecture: cls for cls in (NAFNet, PromptIR, SwinRestorer)}
# What weights lie in: averaged ones, which restore better than the last, before others in this order.
_AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|shadow)($|[^a-z])|averaged", re.IGNORECASE)
_WRAPPERS = (
    *("params", "state_dict", "model_state_dict", "module", "net", "network", "model", "restorer"),
    *("generator", "net_g", "netG", "net_G", "gen", "G"),
)
# What lies beside them: other networks and optimisers; what torch puts into names; counts, which change nothing.
_OTHERS = re.compile(
    r"disc|critic|net_?d(?![a-z])|^d(?![a-z])|loss|vgg|lpips|percep|optim(?!al|i[sz]ed)", re.IGNORECASE
)
_INSERTED = re.compile(r"(^|\.)((module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
_COUNTED = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$")


def network_from_state_dict(state_dict: Mapping[str, Any]) -> nn.Module:
    """Build the network that these weights belong to and load them, all of them and no others.

    Args:
        state_dict: names to tensors, as `state_dict()` gives them or wrapped the way training frameworks do: under a
            key (`params`, `params_ema`, `state_dict`, ...) or a prefix (`module.`, `net.`, ...), beside whatever
            else they save. Of several, averaged weights are taken; discriminators and optimisers never.

    Returns:
        A network in evaluation mode with float32 weights of its own.

    Raises:
        UserError: if these are not weights, not those of a restoration network we or spandrel know, or not numbers.
    """
    if not isinstance(state_dict, Mapping):
        raise UserError(f"Weights must be a mapping of names to tensors, not a {type(state_dict).__name__}.")
    candidates = list(_unwrapped(state_dict))
    if not candidates:
        names = ", ".join(map(repr, list(state_dict)[:5])) or "nothing"
        raise UserError(f"These are not the weights of one network but {names}. Save its state_dict() by itself.")
    for tensors in candidates:
        for architecture, (marks, configure) in _RECOGNISED.items():
            if all(mark in tensors for mark in marks):
                try:
                    config = configure(tensors)
                except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
                    raise UserError(f"These weights look like {architecture} but are incomplete: {error}.") from error
                return build(architecture, config, tensors)
    return _from_spandrel(candidates)


def build(architecture: str, config: Mapping[str, Any], state: State) -> nn.Module:
    """A network of this architecture and config, in evaluation mode, with exactly these weights.

    Raises:
        UserError: if there is no such architecture, or the weights do not fit it.
    """
    if architecture not in NETWORKS:
        raise UserError(f"There is no architecture {architecture!r}; there are {', '.join(NETWORKS)}.")
    check_settings(config, NETWORKS[architecture], CONFIG)
    if architecture == SwinRestorer.architecture:
        _check_encoder(config)
    try:
        with torch.device("meta"):  # checks names and shapes before any memory is taken
            empty = NETWORKS[architecture](**config)
    except Exception as error:  # layers raise almost anything when sizes do not go together
        raise UserError(f"No {architecture} can be built with {dict(config)}: {error}.") from error
    expected, found = _shapes(empty.state_dict()), _shapes(state)
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise UserError(
            f"These weights do not fit {architecture}: {len(wrong)} parameters differ, such as {wrong[0]!r} "
            f"(expected {_shape(expected, wrong[0])}, found {_shape(found, wrong[0])})."
        )
    check_tensors(state)
    network = NETWORKS[architecture](**config)
    network.load_state_dict(state)
    return network.eval()


def _check_encoder(config: Mapping[str, Any]) -> None:
    """Of timm's many options, and of its names, which may be addresses to download from, only what describes a Swin."""
    encoder, options = config.get("encoder", ""), config.get("encoder_kwargs") or {}
    if config.get("pretrained") or not re.fullmatch(r"(swin\w+)?", encoder):
        raise UserError(
            f"swin: the setting 'encoder' must name a Swin of timm's, not {encoder!r}, without pretraining."
        )
    check_settings(options, _encoder_options, "swin: encoder_kwargs")


def _encoder_options(
    embed_dim: int = 96,
    depths: Sequence[int] = (),
    num_heads: Sequence[int] = (),
    window_size: int = 7,
    mlp_ratio: float = 4.0,
    patch_size: int = 4,
    img_size: int = 224,
    qkv_bias: bool = True,
    drop_path_rate: float = 0.0,
) -> None:
    """What a config may say about timm's encoder."""


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "nothing"


def _unwrapped(state_dict: Mapping[Any, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a file under their names, then those inside each layer of wrapping, the likeliest first.

    A layer is what lies under a key, or whose names begin alike up to a dot.
    """
    layers, seen = [state_dict], {id(state_dict)}
    while layers:
        content = layers.pop()
        tensors = {
            str(name): value
            for name, value in content.items()
            if isinstance(value, torch.Tensor) and not _COUNTED.search(str(name))
        }
        plain = {_INSERTED.sub(r"\1", name): value for name, value in tensors.items()}
        if tensors:
            yield plain
        if plain.keys() != tensors.keys():
            yield tensors
        nested = {str(k): v for k, v in content.items() if isinstance(v, Mapping) and id(v) not in seen}
        seen.update(map(id, nested.values()))
        beginning: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in plain.items():
            prefix, dot, rest = name.partition(".")
            if dot:
                beginning.setdefault(prefix, {})[rest] = value
        inner = [*_likely(nested), *_likely(beginning)]
        layers += [layer for _, layer in sorted(inner, key=itemgetter(0), reverse=True)]


def _likely(layers: Mapping[str, Mapping[Any, Any]]) -> list[tuple[int, Mapping[Any, Any]]]:
    """Layers that may be a restorer, each with its place in the order to look.

    One whose name tells nothing must be the only one with weights: of two, which is meant cannot be known.
    """
    layers = {name: layer for name, layer in layers.items() if not _OTHERS.search(name)}
    weights = [layer for layer in layers.values() if any(map(_has_tensors, [layer, *layer.values()]))]
    places = {name: place for place, name in enumerate(_WRAPPERS, 1)}
    places |= {name: 0 for name in layers if _AVERAGED.search(name)}
    return [
        (places.get(name, len(places)), layer) for name, layer in layers.items() if len(weights) < 2 or name in places
    ]


def _has_tensors(layer: Any) -> bool:
    return isinstance(layer, Mapping) and any(isinstance(value, torch.Tensor) for value in layer.values())


def _count(state: State, prefix: str) -> int:
    """How many numbered children `prefix` has; 0 if none."""
    numbers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in state)
    return len({match[1] for match in numbers if match})


def _nafnet_config(state: State) -> dict[str, Any]:
    levels = _count(state, "downs.")
    return {
        "img_channel": state["intro.weight"].shape[1],
        "out_channel": state["ending.weight"].shape[0],
        "width": state["intro.weight"].shape[0],
        "enc_blk_nums": [_count(state, f"encoders.{level}.") for level in range(levels)],
        "middle_blk_num": _count(state, "middle_blks."),
        "dec_blk_nums": [_count(state, f"decoders.{level}.") for level in range(levels)],
    }


def _promptir_config(state: State) -> dict[str, Any]:
    levels = ["encoder_level1", "encoder_level2", "encoder_level3", "latent"]
    prompts = [state[f"prompt{level}.prompt_param"].shape for level in (1, 2, 3)]
    hidden = {
        value.shape[1]: value.shape[0] // 2 for name, value in state.items() if name.endswith("ffn.project_in.weight")
    }
    return {
        "inp_channels": state["patch_embed.proj.weight"].shape[1],
        "out_channels": state["output.weight"].shape[0],
        "dim": state["patch_embed.proj.weight"].shape[0],
        "num_blocks": [_count(state, f"{level}.") for level in levels],
        "num_refinement_blocks": _count(state, "refinement."),
        "heads": [state[f"{level}.0.attn.temperature"].shape[0] for level in levels],
        "ffn_expansion_factor": _expansion(hidden),
        "bias": "output.bias" in state,
        "prompt_dims": [shape[2] for shape in prompts],
        "prompt_sizes": [shape[3] for shape in prompts],
        "prompt_len": prompts[0][1],
        "unused_layers": "chnl_reduce1.weight" in state,
    }


def _expansion(hidden: Mapping[int, int]) -> float:
    """The roundest factor with int(channels * factor) == hidden channels for all pairs given."""
    low = max(count / channels for channels, count in hidden.items())
    high = min((count + 1) / channels for channels, count in hidden.items())
    for digits in range(7):
        factor = math.ceil(low * 10**digits) / 10**digits
        if factor < high and all(int(channels * factor) == count for channels, count in hidden.items()):
            return factor
    raise UserError("its feed-forward parts are not of one proportion")


def _swin_config(state: State) -> dict[str, Any]:
    stages = range(sum(f"encoder.layers_{stage}.blocks.0.norm1.weight" in state for stage in range(16)))
    first = [f"encoder.layers_{stage}.blocks.0" for stage in stages]
    hidden = [state[f"{block}.mlp.fc1.weight"].shape for block in first]
    tables = [state[f"{block}.attn.relative_position_bias_table"].shape for block in first]
    return {
        "encoder": "swin_tiny_patch4_window7_224",  # all other sizes are given
        "encoder_kwargs": {
            "embed_dim": state["encoder.patch_embed.proj.weight"].shape[0],
            "depths": [_count(state, f"encoder.layers_{stage}.blocks.") for stage in stages],
            "num_heads": [table[1] for table in tables],
            "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
            "mlp_ratio": _expansion({shape[1]: shape[0] for shape in hidden}),
        },
        "stem_width": state["stem.0.weight"].shape[0],
        "decoder_width": state["to_half.weight"].shape[1],
        "decoder_blocks": _count(state, "levels.0."),
    }


_RECOGNISED = {
    NAFNet.architecture: (("intro.weight", "ending.weight", "downs.0.weight"), _nafnet_config),
    PromptIR.architecture: (("patch_embed.proj.weight", "prompt1.prompt_param"), _promptir_config),
    SwinRestorer.architecture: (
        ("stem.0.weight", "encoder.layers_0.blocks.0.attn.relative_position_bias_table"),
        _swin_config,
    ),
}


class SpandrelNetwork(nn.Module):
    """A network of spandrel's: pads and clamps as spandrel knows it must, [B, 3, H, W] to the same size."""

    architecture = "spandrel"
    channels = (3, 3)

    def __init__(self, descriptor: Any):
        super().__init__()
        self.descriptor = descriptor
        self.network = descriptor.model
        sizes = descriptor.size_requirements
        self.multiple = max(sizes.multiple_of, sizes.minimum)  # the minimum is itself a multiple
        self.network.register_forward_hook(self._keep_infinity)

    @staticmethod
    def _keep_infinity(network: nn.Module, inputs: Any, output: Any) -> Any:
        """As NaN, which lasts: spandrel clamps infinity to white before anybody can see it."""
        return output + 0 * output if isinstance(output, torch.Tensor) else output

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.descriptor(image)


def _from_spandrel(candidates: Sequence[dict[str, torch.Tensor]]) -> nn.Module:
    unknown = f"These weights belong to none of {', '.join(cls.__name__ for cls in NETWORKS.values())}"
    largest = max(candidates, key=len)
    name = next(iter(largest))
    held = f"They are {len(largest)} in all, such as {name!r} {list(largest[name].shape)}."
    try:
        spandrel = import_module("spandrel")
    except ImportError:
        raise UserError(
            f"{unknown}. {held} Install spandrel for some forty more architectures: pip install spandrel."
        ) from None
    descriptor = None
    for tensors in candidates:
        try:
            descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(tensors))
            break
        except Exception as error:  # spandrel's detection indexes into whatever it is given
            logging.debug("spandrel: %r", error)
    if descriptor is None:
        raise UserError(f"{unknown}, and spandrel does not know them either. {held}")
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise UserError(f"{descriptor.architecture.name} needs more than an image (a mask, say): it cannot be used.")
    if descriptor.scale != 1 or descriptor.input_channels != 3 or descriptor.output_channels != 3:
        raise UserError(
            f"This {descriptor.architecture.name} turns {descriptor.input_channels} channels into "
            f"{descriptor.output_channels} and scales by {descriptor.scale}: a restorer keeps RGB and the size."
        )
    check_tensors({k: v for k, v in descriptor.model.state_dict().items() if v.is_floating_point()})
    return SpandrelNetwork(descriptor).eval()
