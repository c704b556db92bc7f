"""What both halves stand on: images, jobs, errors, files, weights, devices. Imports neither gendeg nor restorers."""
