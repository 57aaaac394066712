"""The deep latent Gaussian model, its bound, and its held-out numbers."""
