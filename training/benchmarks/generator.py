"""Time and memory of one 256 x 256 image: all degradations by default, against the paper's number of evaluations.

python -m training.benchmarks.generator [--model compact]

The baseline runs the same network 300 times, as 100 steps of three-way guidance do.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from training.evaluate.inputs import evaluation_squares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="compact")
    args = parser.parse_args()
    started = time.perf_counter()
    pipeline = load_pipeline(args.model)
    loaded = time.perf_counter() - started
    print(f"device {pipeline.device}, {torch.get_num_threads()} threads; loading took {loaded:.1f} s")
    photo = evaluation_squares(None)[0]
    evaluations = 0

    def count(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal evaluations
        evaluations += len(inputs[0])  # a guided step makes two at once

    hook = pipeline.unet.register_forward_hook(count)
    default = 0.0
    for name, degradation in DEGRADATIONS.items():
        mu, sigma = degradation.typical
        evaluations, times = 0, []
        for _ in range(4):
            started = time.perf_counter()
            pipeline(photo, name, mu=mu, sigma=sigma)
            times.append(time.perf_counter() - started)
        seconds = sum(sorted(times)[1:3]) / 2
        print(f"{name}: {evaluations // len(times)} evaluations, {seconds:.2f} s an image")
        default = max(default, seconds)
    hook.remove()
    started = time.perf_counter()
    pipeline(photo, "rain", mu=0.08, sigma=0.08, num_inference_steps=100, guidance_scale=7.5, image_guidance_scale=1.5)
    baseline = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"baseline (100 steps, three-way guidance): {baseline:.2f} s, {baseline / default:.1f} times the slowest")
    print(f"peak resident memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
