"""Variational inference: the models, the densities they are fitted to, and the training that fits them."""
