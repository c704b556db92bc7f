"""What the compact generator begins its training with."""

import torch

from gendeg.intensity import IntensityProjection
from training.generator.bridge import make_intensities_heard


def test_mu_and_sigma_are_heard_from_the_first_step():
    torch.manual_seed(0)
    projection, text = IntensityProjection(tokens=32, width=64), torch.randn(1, 32, 64)
    make_intensities_heard(projection)

    def apart(one, other) -> float:
        contexts = [projection(text, mu, sigma) for mu, sigma in (one, other)]
        return float((contexts[0] - contexts[1]).detach().square().mean().sqrt())

    asked, none = (torch.tensor([0.1]), torch.tensor([0.1])), (None, None)
    torch.testing.assert_close(projection(text, None, None), text, msg="the text is passed on")
    for other in ((torch.tensor([0.3]), asked[1]), (asked[0], torch.tensor([0.3])), none):
        assert apart(asked, other) > 0.2, "the text has a deviation of 1"
    near = (torch.tensor([0.11]), asked[1])
    assert 0 < apart(asked, near) < 0.6 * apart(asked, (torch.tensor([0.3]), asked[1])), "neighbours are alike"
