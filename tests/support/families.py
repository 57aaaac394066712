"""Names of the suite's own flow families, taken before any test has declared another."""

from nfstudy.core import registry

FAMILIES = list(registry.all_of("flows"))
"""All of them, with `none`."""
WITH_STEPS = [family for family in FAMILIES if family != "none"]
