"""Names of the suite's own flow families, taken before any test has declared another."""

from nfstudy.core import registry

FAMILIES = [name for name, family in registry.all_of("flows").items() if not family.guided]
"""All that are maps of z alone, with `none`."""
GUIDED = [name for name, family in registry.all_of("flows").items() if family.guided]
"""Those that follow the gradient of a model."""
WITH_STEPS = [family for family in FAMILIES if family != "none"]
