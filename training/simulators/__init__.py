"""Physical models of the six degradations: the paired data to start from.

A simulator is a function `simulator(clean, generator) -> render`:

- `clean`: float tensor [B, 3, H, W] in [0, 1];
- `generator`: a `torch.Generator` on the device of `clean`, and PyTorch's default device is this one; every random
  choice (geometry, densities, colours) is drawn from it, once, independently for each sample of the batch;
- `render(strength)`: takes a float tensor [B] in [0, 1] and returns the degraded images [B, 3, H, W] in [0, 1].
  `render(0)` is the clean image, and the mean of |clean - degraded| grows with strength; `render(1)` is as strong as
  the model goes. The same strength always gives the same image.

A degradation may have simulators of different physics. `matching.simulate` picks one and finds the strength that
reaches a wanted intensity.
"""
