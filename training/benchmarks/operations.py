"""How much do the networks compute? Floating-point operations, as torch counts them.

python -m training.benchmarks.operations

`gendeg/jobs.py` and `restorers/jobs.py` estimate from these how long to ask for a GPU that is lent.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from gendeg.checkpoints import load_pipeline
from restorers.registry import available, load_restorer


def main() -> None:
    photo, evaluations = Image.new("RGB", (512, 512), "grey"), 0

    def count(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal evaluations
        evaluations += len(inputs[0])

    pipeline = load_pipeline("compact")
    hook = pipeline.unet.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        pipeline(photo, "rain", resolution=512)
    hook.remove()
    total, unet = counter.get_total_flops(), sum(counter.get_flop_counts()["UNet2DConditionModel"].values())
    print(
        f"compact, 512 x 512: {unet / evaluations / 1e12:.3f} TFLOP an evaluation, {(total - unet) / 1e12:.3f} the rest"
    )
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # of Stable Diffusion 1, without its weights
        unet = UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
        unet(torch.empty(1, 8, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    print(f"the paper's, 512 x 512: {counter.get_total_flops() / 1e12:.3f} TFLOP an evaluation")
    for name in available():
        with FlopCounterMode(display=False) as counter:
            load_restorer(name)(photo)
        print(f"{name}: {counter.get_total_flops() / 1e12 / (512 * 512 / 1e6):.3f} TFLOP a megapixel")


if __name__ == "__main__":
    main()
