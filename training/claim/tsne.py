"""Which samples lie near each other? t-SNE: a map of points in many dimensions on a plane.

Van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008: exact, for up to some thousand points.
"""

from __future__ import annotations

import torch

_STEPS, _EXAGGERATED = 500, 120  # of these the first ones with attraction 12 times as strong


def tsne(points: torch.Tensor, perplexity: float = 30.0, seed: int = 0) -> torch.Tensor:
    """Places on a plane, [N, 2], of points [N, F], N from 4 on.

    Args:
        perplexity: about how many neighbours each heeds; at most a third of the others.
    """
    count = len(points)
    near = _affinities(points.double(), min(perplexity, (count - 1) / 3))
    near = ((near + near.T) / (2 * count)).clamp(min=1e-12)
    place = 1e-2 * torch.randn(count, 2, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    velocity, rate = torch.zeros_like(place), max(count / 48, 5.0)
    for step in range(_STEPS):
        heavy = 1 / (1 + torch.cdist(place, place).square()).fill_diagonal_(torch.inf)
        early = step < _EXAGGERATED
        pull = (near * (12 if early else 1) - heavy / heavy.sum()) * heavy
        gradient = 4 * (pull.sum(1, keepdim=True) * place - pull @ place)
        velocity = (0.5 if early else 0.8) * velocity - rate * gradient
        place = place + velocity
    return (place - place.mean(0)).float()


def _affinities(points: torch.Tensor, perplexity: float) -> torch.Tensor:
    """Row i: how likely i picks each as its neighbour, by a Gaussian as wide as gives the perplexity (bisection)."""
    squares = torch.cdist(points, points).square()
    squares = squares / squares.mean()
    low, high = torch.full((len(points), 1), -20.0).double(), torch.full((len(points), 1), 20.0).double()
    for _ in range(50):
        middle = (low + high) / 2
        logits = (-squares * middle.exp()).fill_diagonal_(-torch.inf)
        chance = logits.softmax(1)
        entropy = -(chance * chance.clamp(min=1e-300).log()).sum(1, keepdim=True)
        wide = entropy.exp() > perplexity
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return chance
