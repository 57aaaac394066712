"""What reports ask of the paper, answered for Rezende & Mohamed (2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nfstudy.papers.rezende2015.published import find_published
from nfstudy.papers.rezende2015.stated import STATED_REPETITIONS, UNMENTIONED, stated_settings
from nfstudy.report.labels import setting_name, setting_text
from nfstudy.report.paper import PaperFacts, Published
from nfstudy.study.settings import Settings


class Rezende2015(PaperFacts):
    """The paper's published numbers, and what it states of its settings."""

    repetitions = STATED_REPETITIONS

    def find(self, where: Mapping[str, Any], quantity: str, family: str, length: int) -> Published | None:
        """Return the number of Figure 3, Figure 4 or Table 3 for a metric of one cell."""
        return find_published(where, quantity, family, length)

    def stated_settings(self, flat: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what Section 6 states of the experiment on images that settings are most like."""
        return stated_settings(flat)

    def departures(self, settings: Settings) -> list[str]:
        """List the settings that are not as stated, refinements that are not mentioned, and fewer training images."""
        flat = settings.flat()
        found = super().departures(settings)
        found += [
            f"{setting_name(path)} {setting_text(flat[path])} (paper: not mentioned)"
            for path, plain in UNMENTIONED.items()
            if path in flat and flat[path] != plain
        ]
        if settings.data and settings.data.train_images is not None:
            found.append(f"training images {settings.data.train_images:,} (paper: all)")
        return found


FACTS = Rezende2015()
