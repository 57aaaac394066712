"""The arrays of a film and their file `film.npz`, which may come from anywhere and is read with care."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

ARRAYS = "film.npz"
"""The file of a run that holds its film."""
MOST_STEPS = 17
"""Moments of a film: of a longer chain, so many steps evenly spread, the first and the last among them."""
MAX_BYTES = 64_000_000
"""Of all arrays of a film, unpacked."""
MAX_SIZE = 4096
"""Of an axis of an array: a drawing of more would take for ever."""
FLOOR = -60.0
"""Least logarithm of a density that is kept, in nats: e⁻⁶⁰ is black in every picture, and float16 holds it."""


@dataclass(frozen=True)
class PlaneFilm:
    """What K steps make of a density on the plane; F moments, k = `steps`[0], `steps`[1], ..."""

    KIND: ClassVar = "plane"
    SMALL: ClassVar = frozenset({"log_density", "target", "grid"})
    LOGARITHMS: ClassVar = frozenset({"log_density", "target"})
    steps: np.ndarray
    """k of each moment, (F,): from 0 to K."""
    window: np.ndarray
    """(3,): centre and half side of the square that pictures show."""
    log_density: np.ndarray
    """ln q_k in nats at the centres of C × C cells of the window, (F, C, C); rows from the top."""
    target: np.ndarray
    """ln p there, (C, C); (0, 0) where nothing is approximated."""
    grid: np.ndarray
    """z_k of the points of a square grid in z_0, (F, G, G, 2); the second axis runs along z2, the third along z1."""
    samples: np.ndarray
    """z_k of S samples, (F, S, 2); those that the run is tested with."""

    @property
    def caption(self) -> str:
        """What the pictures show, for people."""
        target = ", and the true density it is to become" if self.target.size else ""
        return (
            "The density q_k after each step by change of variables, eq. (7), on (−4, 4)²" + target + "; the square "
            "grid of z_0 as the steps have warped it; and samples, coloured by where they "
            "began, some with the ways that they came."
        )

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each array; letters stand for sizes."""
        cells: tuple[int | str, ...] = ("C", "C") if self.target.size else (0, 0)
        return {
            "steps": ("F",),
            "window": (3,),
            "log_density": ("F", "C", "C"),
            "target": cells,
            "grid": ("F", "G", "G", 2),
            "samples": ("F", "S", 2),
        }


@dataclass(frozen=True)
class PosteriorFilm:
    """What K steps make of the posteriors of N images, in two directions; F moments, k = `steps`[0], `steps`[1], ..."""

    KIND: ClassVar = "posteriors"
    SMALL: ClassVar = frozenset({"posterior"})
    LOGARITHMS: ClassVar = SMALL
    steps: np.ndarray
    """k of each moment, (F,): from 0 to K."""
    images: np.ndarray
    """The images, from 0 to 255, (N, height, width, channels)."""
    samples: np.ndarray
    """Each image's S samples z_k in two directions, (F, N, S, 2)."""
    windows: np.ndarray
    """Centre and half side of the square that an image's picture shows, (N, 3)."""
    share: np.ndarray
    """Share of the variance of z_K that lies in the two directions, (N,); 1 at D = 2."""
    posterior: np.ndarray
    """At D = 2: ln p(x, z) of each image in nats, up to a constant, at the centres of C × C cells of its window, rows
    from the top, (N, C, C); else (0, 0, 0)."""
    decoded: np.ndarray
    """At D = 2: the model's images at M × M points of (−3, 3)², rows from the top, (M, M, height, width, channels)."""
    places: np.ndarray
    """At D = 2: one sample of the posterior of each of T test images, (T, 2)."""
    thumbnails: np.ndarray
    """These images, (T, height, width, channels)."""

    @property
    def caption(self) -> str:
        """What the pictures show, for people."""
        if self.posterior.size:
            where = "Behind them, the true posterior p(z|x) of the trained model, by p(x, z) on a grid (D = 2)."
        else:
            where = "They are shown in the two main directions of z_K (PCA), the same for all steps."
        return (
            "Samples of the posteriors q_k(z|x) of single images, from the Gaussian q_0 on, with their ways so far, "
            f"coloured by where they began. {where}"
        )

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each array; letters stand for sizes."""
        of_image = ("height", "width", "channels")
        plane = bool(self.posterior.size)
        return {
            "steps": ("F",),
            "images": ("N", *of_image),
            "samples": ("F", "N", "S", 2),
            "windows": ("N", 3),
            "share": ("N",),
            "posterior": ("N", "C", "C") if plane else (0, 0, 0),
            "decoded": ("M", "M", *of_image) if plane else (0, 0, *of_image),
            "places": ("T", 2) if plane else (0, 2),
            "thumbnails": ("T", *of_image) if plane else (0, *of_image),
        }


Film = PlaneFilm | PosteriorFilm
_KINDS: Mapping[str, type[PlaneFilm] | type[PosteriorFilm]] = {kind.KIND: kind for kind in (PlaneFilm, PosteriorFilm)}


class Arrays(Protocol):
    """A dataclass of arrays that is kept as a file."""

    KIND: ClassVar[str]
    """What it is, as its file says."""
    SMALL: ClassVar[frozenset[str]]
    """Arrays that float16 holds well enough."""
    LOGARITHMS: ClassVar[frozenset[str]]
    """Logarithms of densities, of which none is kept below `FLOOR`."""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each array; letters stand for sizes."""


def moments(length: int) -> list[int]:
    """Return the steps k that a film of a chain of K steps shows: 0 and K, and at most `MOST_STEPS` in all."""
    shown: list[int] = np.unique(np.linspace(0, length, min(length + 1, MOST_STEPS)).round().astype(int)).tolist()
    return shown


def write_film(film: Film) -> bytes:
    """Return the file of a film: samples and places in float32, densities and grids in float16."""
    return write_arrays(film)


def read_film(content: bytes) -> Film:
    """Return the film of a file.

    Raises:
        ValueError: it is none, or too large.
    """
    film: Film = read_arrays(content, _KINDS, "film")
    if not film.steps.size or (film.steps < 0).any():
        raise ValueError("steps: expected: at least one, from 0")
    return film


def write_arrays(record: Arrays) -> bytes:
    """Return the file of arrays; the same ones give the same bytes."""
    arrays: dict[str, Any] = {"kind": np.array(record.KIND)}
    for field in dataclasses.fields(record):
        values = getattr(record, field.name)
        if field.name in record.LOGARITHMS:
            values = np.maximum(values, FLOOR)
        kind = values.dtype if values.dtype.kind in "iu" else np.float16 if field.name in record.SMALL else np.float32
        arrays[field.name] = values.astype(kind)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_arrays(content: bytes, kinds: Mapping[str, Any], what: str) -> Any:
    """Return what a file holds.

    Arguments:
        content: of the file.
        kinds: kind, as the file says -> the dataclass that it is read into.
        what: it should be, for people.

    Raises:
        ValueError: it is none, or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if (size := sum(entry.file_size for entry in packed.infolist())) > MAX_BYTES:
                raise ValueError(f"{size:,} bytes unpacked; expected: at most {MAX_BYTES:,}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            kind = kinds[str(arrays["kind"])]
            record = kind(**{field.name: arrays[field.name] for field in dataclasses.fields(kind)})
    # What zipfile and NumPy make of damaged bytes: NotImplementedError of a compression that is none, RuntimeError of
    # an entry that says it is encrypted.
    except (
        *(OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
        MemoryError,  # Of a header that declares more than there is.
    ) as error:
        raise ValueError(f"not a {what} ({type(error).__name__}: {error})") from None
    _require_shapes(record)
    return record


def _require_shapes(film: Arrays) -> None:
    sizes: dict[str, int] = {}
    if any(size > MAX_SIZE for name in film.shapes() for size in getattr(film, name).shape):
        raise ValueError(f"an array with an axis of more than {MAX_SIZE:,}; expected: what a picture needs")
    for name, expected in film.shapes().items():
        values = getattr(film, name)
        fits = values.ndim == len(expected) and values.dtype.kind in "iuf"
        for size, asked in zip(values.shape, expected, strict=False):
            fits &= size == (asked if isinstance(asked, int) else sizes.setdefault(asked, size))
        if not fits:
            raise ValueError(f"{name} of shape {values.shape} and type {values.dtype}; expected: {expected}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: numbers that are not finite; expected: finite ones")
