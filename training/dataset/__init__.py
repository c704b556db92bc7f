"""Makes data sets of pairs: what is to be made, how a sample is made, where, what is on disk, and the card."""
