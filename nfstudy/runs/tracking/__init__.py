"""Stores of runs: MLflow's, through its API or by SQL."""
