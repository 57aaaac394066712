"""The study files that the repository ships."""

from pathlib import Path

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
