"""One trial from its settings to its result: the loop, the optimisers, checkpoints."""
