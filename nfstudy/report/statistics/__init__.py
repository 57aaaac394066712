"""From runs to estimates with intervals, and contrasts between them."""
