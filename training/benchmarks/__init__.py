"""Measures time and memory, one command a file. What models reach is measured in training/evaluate/."""
