"""All bundled checkpoints from random initialisation: python -m training.reproduce."""
