"""Films: what a run's flow does step by step, as arrays (`film.npz`), as a GIF and as a page with a slider.

Free of torch and matplotlib: workers log films, and reports draw them, by the same code.
"""

from nfstudy.films.arrays import ARRAYS, Film, read_film, write_film
from nfstudy.films.pages import film_page, film_player
from nfstudy.films.pictures import film_gif
from nfstudy.films.strips import strip_of

GIF, PAGE = "film.gif", "film.html"
"""The pictures of a film among a run's files."""


def film_files(film: Film, title: str) -> dict[str, bytes]:
    """Return what a run logs of a film, file name -> content; the same film gives the same bytes.

    Arguments:
        film: its arrays.
        title: what it is of, such as `planar K=8`.
    """
    strips = [strip_of(film, title)]
    return {ARRAYS: write_film(film), GIF: film_gif(strips), PAGE: film_page(strips, film.caption).encode()}


__all__ = [
    "ARRAYS",
    "GIF",
    "PAGE",
    "Film",
    "film_files",
    "film_gif",
    "film_player",
    "read_film",
    "strip_of",
]
