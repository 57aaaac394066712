"""What is known of a run: its result, metrics, provenance; where runs are kept and how they travel."""
