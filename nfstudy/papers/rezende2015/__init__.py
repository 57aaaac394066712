"""Variational Inference with Normalizing Flows (Rezende & Mohamed, ICML 2015)."""
