"""How far apart are two sets of images? Frechet distance, on the features of the bundled estimator of degradations.

FID (arXiv 1706.08500) with another network: Inception's weights would have to be downloaded. This one has learned to
tell degradations, so the distance is between looks, not between things shown. Its values mean nothing beside a FID, and
fall with the number of images: compare sets of one size.
"""

from __future__ import annotations

import torch

from gendeg.estimator import load_estimator

TILE = 128  # pixels: of what the estimator has learned from


@torch.inference_mode()
def features(images: torch.Tensor) -> torch.Tensor:
    """Of the tiles that images are cut into.

    Args:
        images: uint8 [B, 3, H, W], of a short side of about 256 pixels, the scale that the estimator knows.

    Returns:
        [B * tiles, F]: tiles of 128 x 128 pixels side by side, or the whole side of a smaller image.
    """
    height, width = (min(TILE, side) for side in images.shape[-2:])
    tiles = images.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return load_estimator().features(tiles.float() / 127.5 - 1)


def frechet(one: torch.Tensor, other: torch.Tensor) -> float:
    """Frechet distance of the normal distributions that have the means and covariances of features [N, F] and [M, F].

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); the last trace is the sum of the singular values of A B^T, where the
    rows of A and B are the centred features over the roots of N and M, so that few images do as well.
    """
    means, spreads = [], []
    for values in (one.double(), other.double()):
        means.append(values.mean(0))
        spreads.append((values - means[-1]) / len(values) ** 0.5)
    shared = torch.linalg.svdvals(spreads[0] @ spreads[1].T).sum()
    total = sum(spread.square().sum() for spread in spreads) - 2 * shared
    return float((means[0] - means[1]).square().sum() + total.clamp(min=0))
