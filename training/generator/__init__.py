"""Trains the generator: the compact profile's from random initialisation, the paper's from Stable Diffusion."""
