"""Makes the Restore tab's examples with the bundled generator: python -m training.examples

The photographs are scikit-image's, free of copyright; each becomes a degraded image and the clean one it pairs with.
"""

from __future__ import annotations

import skimage.data
import torch
from PIL import Image

from gendeg.checkpoints import load_pipeline
from runtime.paths import ASSETS

FOLDER = ASSETS / "examples"
EXAMPLES = {  # degradation: (photograph, mu, sigma)
    "haze": ("rocket", 0.15, 0.10),
    "rain": ("astronaut", 0.10, 0.09),
    "snow": ("chelsea", 0.08, 0.10),
    "motion_blur": ("coffee", 0.04, 0.05),
    "raindrop": ("coffee", 0.05, 0.09),
    "low_light": ("astronaut", 0.25, 0.16),
}


def main() -> None:
    pipeline = load_pipeline()
    (FOLDER / "clean").mkdir(parents=True, exist_ok=True)
    for degradation, (name, mu, sigma) in EXAMPLES.items():
        photo = Image.fromarray(getattr(skimage.data, name)())
        output = pipeline(photo, degradation, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(0))
        for image, folder in ((output.images[0], FOLDER), (output.clean[0], FOLDER / "clean")):
            image.save(folder / f"{name}-{degradation}.webp", quality=90)
        print(f"{name}-{degradation}: mu {output.mu[0]:.3f}, sigma {output.sigma[0]:.3f}")


if __name__ == "__main__":
    main()
