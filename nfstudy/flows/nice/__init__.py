"""NICE: additive couplings between which variables are mixed."""
