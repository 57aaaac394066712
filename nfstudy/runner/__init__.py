"""The coordinator of a study and the workers that it gives trials to."""
