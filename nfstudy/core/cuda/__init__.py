"""What runs on CUDA devices alone."""
