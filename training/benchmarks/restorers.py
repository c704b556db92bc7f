"""Speed of our restorers against the published definitions, and their time and memory on a large photograph.

python -m training.benchmarks.restorers speed [--size 512] [--width 64] [--dim 48] [--threads N]
python -m training.benchmarks.restorers photo nafnet [promptir swin ...] [--megapixels 12]

The published definitions are written plainly, as functions of a state dict: memory in channels-first order, layer norm
by explicit mean and variance, attention by reshaping to heads. The tests compare our networks with them.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.registry import load_restorer

State = dict[str, torch.Tensor]


def layer_norm_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Layer norm over the channels of [B, C, H, W], channels first."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def _conv(state: State, name: str, x: torch.Tensor, **kwargs: int) -> torch.Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **kwargs)


def _count(state: State, prefix: str) -> int:
    """How many numbered children `prefix` has."""
    return len({name[len(prefix) + 1 :].split(".")[0] for name in state if name.startswith(f"{prefix}.")})


def nafnet_reference(state: State, image: torch.Tensor) -> torch.Tensor:
    """The published NAFNet, image [B, C, H, W] of any size."""

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        y = layer_norm_reference(x, state[f"{name}.norm1.weight"], state[f"{name}.norm1.bias"], 1e-6)
        y = _conv(state, f"{name}.conv1", y)
        y = _conv(state, f"{name}.conv2", y, padding=1, groups=y.shape[1])
        first, second = y.chunk(2, dim=1)
        y = first * second
        y = y * _conv(state, f"{name}.sca.1", F.adaptive_avg_pool2d(y, 1))
        x = x + _conv(state, f"{name}.conv3", y) * state[f"{name}.beta"]
        y = layer_norm_reference(x, state[f"{name}.norm2.weight"], state[f"{name}.norm2.bias"], 1e-6)
        first, second = _conv(state, f"{name}.conv4", y).chunk(2, dim=1)
        return x + _conv(state, f"{name}.conv5", first * second) * state[f"{name}.gamma"]

    def blocks(name: str, x: torch.Tensor) -> torch.Tensor:
        for index in range(_count(state, name)):
            x = block(f"{name}.{index}", x)
        return x

    levels = _count(state, "downs")
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % 2**levels, 0, -height % 2**levels))
    x = _conv(state, "intro", image, padding=1)
    skips = []
    for level in range(levels):
        x = blocks(f"encoders.{level}", x)
        skips.append(x)
        x = _conv(state, f"downs.{level}", x, stride=2)
    x = blocks("middle_blks", x)
    for level in range(levels):
        x = F.pixel_shuffle(_conv(state, f"ups.{level}.0", x), 2) + skips.pop()
        x = blocks(f"decoders.{level}", x)
    x = _conv(state, "ending", x, padding=1)
    if x.shape[1] == image.shape[1]:
        x = x + image
    return x[:, :, :height, :width]


def promptir_reference(state: State, image: torch.Tensor) -> torch.Tensor:
    """The published PromptIR, image [B, 3, H, W] with H and W multiples of 8."""

    def attention(name: str, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        temperature = state[f"{name}.temperature"]
        heads = temperature.shape[0]
        qkv = _conv(state, f"{name}.qkv", x)
        qkv = _conv(state, f"{name}.qkv_dwconv", qkv, padding=1, groups=3 * channels)
        q, k, v = (part.reshape(batch, heads, channels // heads, height * width) for part in qkv.chunk(3, dim=1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * temperature).softmax(dim=-1)
        return _conv(state, f"{name}.project_out", (weights @ v).reshape(batch, channels, height, width))

    def feed_forward(name: str, x: torch.Tensor) -> torch.Tensor:
        x = _conv(state, f"{name}.project_in", x)
        first, second = _conv(state, f"{name}.dwconv", x, padding=1, groups=x.shape[1]).chunk(2, dim=1)
        return _conv(state, f"{name}.project_out", F.gelu(first) * second)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm_reference(x, state[f"{name}.body.weight"], state[f"{name}.body.bias"], 1e-5)

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        x = x + attention(f"{name}.attn", norm(f"{name}.norm1", x))
        return x + feed_forward(f"{name}.ffn", norm(f"{name}.norm2", x))

    def blocks(name: str, x: torch.Tensor) -> torch.Tensor:
        for index in range(_count(state, name)):
            x = block(f"{name}.{index}", x)
        return x

    def prompted(level: int, x: torch.Tensor) -> torch.Tensor:
        name = f"prompt{level}"
        logits = F.linear(x.mean(dim=(2, 3)), state[f"{name}.linear_layer.weight"], state[f"{name}.linear_layer.bias"])
        weights = logits.softmax(dim=1)[:, :, None, None, None]
        prompt = (weights * state[f"{name}.prompt_param"].repeat(len(x), 1, 1, 1, 1)).sum(dim=1)
        prompt = _conv(state, f"{name}.conv3x3", F.interpolate(prompt, x.shape[2:], mode="bilinear"), padding=1)
        x = block(f"noise_level{level}", torch.cat([x, prompt], dim=1))
        return _conv(state, f"reduce_noise_level{level}", x)

    def down(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(_conv(state, f"{name}.body.0", x, padding=1), 2)

    def up(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(_conv(state, f"{name}.body.0", x, padding=1), 2)

    level1 = blocks("encoder_level1", _conv(state, "patch_embed.proj", image, padding=1))
    level2 = blocks("encoder_level2", down("down1_2", level1))
    level3 = blocks("encoder_level3", down("down2_3", level2))
    x = up("up4_3", prompted(3, blocks("latent", down("down3_4", level3))))
    x = blocks("decoder_level3", _conv(state, "reduce_chan_level3", torch.cat([x, level3], dim=1)))
    x = up("up3_2", prompted(2, x))
    x = blocks("decoder_level2", _conv(state, "reduce_chan_level2", torch.cat([x, level2], dim=1)))
    x = blocks("decoder_level1", torch.cat([up("up2_1", prompted(1, x)), level1], dim=1))
    return _conv(state, "output", blocks("refinement", x), padding=1) + image


def _alternating_times(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Fastest of several runs each, seconds; taking turns, so that a slow minute of the machine hits all."""
    times = [math.inf] * len(functions)
    for _ in range(rounds):
        for index, function in enumerate(functions):
            started = time.perf_counter()
            function()
            times[index] = min(times[index], time.perf_counter() - started)
    return times


@torch.inference_mode()
def speed(size: int, width: int, dim: int, rounds: int) -> None:
    """Print how fast our networks are at the published depths, against the published definitions."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, size, size)
    networks = ((NAFNet(width=width), nafnet_reference), (PromptIR(dim=dim), promptir_reference))
    for network, reference in networks:
        state = network.state_dict()
        ours, theirs = _alternating_times(
            [lambda n=network: n(image), lambda r=reference, s=state: r(s, image)], rounds
        )
        difference = (network(image) - reference(state, image)).abs().max()
        print(
            f"{network.architecture} at {size} x {size}, {torch.get_num_threads()} threads: ours {ours:.2f} s, "
            f"published definition {theirs:.2f} s, {theirs / ours:.2f} times as fast; difference {difference:.1e}"
        )


def photo(name: str, megapixels: float) -> None:
    """Print time and peak memory of this process for one 4:3 photograph."""
    height = round(math.sqrt(megapixels * 0.75e6))
    image = torch.rand(1, 3, height, round(megapixels * 1e6 / height))
    restorer = load_restorer(name, device="cpu")
    started = time.perf_counter()
    restorer(image)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name} {megapixels:g} {seconds / megapixels:.4f} {peak:.2f}", flush=True)


def photos(names: list[str], megapixels: float) -> None:
    """Print cost per megapixel at 1 and at `megapixels`, each in a process of its own so that peaks are its own."""
    for name in names:
        costs = []
        for size in (1, megapixels):
            command = [sys.executable, "-m", "training.benchmarks.restorers", "one", name, "--megapixels", str(size)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            costs.append(float(line[2]))
            print(f"{name}, {size:g} megapixels: {line[2]} s a megapixel, peak resident memory {line[3]} GiB")
        print(f"{name}: a megapixel of {megapixels:g} costs {costs[1] / costs[0]:.2f} times that of a single one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    against = commands.add_parser("speed", help="ours against the published definitions")
    against.add_argument("--size", type=int, default=512)
    against.add_argument("--width", type=int, default=64, help="of NAFNet")
    against.add_argument("--dim", type=int, default=48, help="of PromptIR")
    against.add_argument("--rounds", type=int, default=3)
    against.add_argument("--threads", type=int)
    for command, text in (("photo", "cost per megapixel and memory"), ("one", "the same for a single size")):
        large = commands.add_parser(command, help=text)
        large.add_argument("names", nargs="+")
        large.add_argument("--megapixels", type=float, default=12)
    args = parser.parse_args()
    if args.command == "speed":
        if args.threads:
            torch.set_num_threads(args.threads)
        speed(args.size, args.width, args.dim, args.rounds)
    elif args.command == "one":
        photo(args.names[0], args.megapixels)
    else:
        photos(args.names, args.megapixels)


if __name__ == "__main__":
    main()
