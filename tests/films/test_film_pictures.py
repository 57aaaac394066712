"""Films: arrays and their file, GIFs and pages of them; the same bytes twice, and what is no film is refused."""

import dataclasses
import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from nfstudy.films import film_files, read_film, strip_of
from nfstudy.films.arrays import FLOOR, MOST_STEPS, PlaneFilm, PosteriorFilm, moments, write_film
from nfstudy.films.pages import film_page, film_player
from nfstudy.films.pictures import MILLISECONDS, PAUSE, film_gif
from nfstudy.films.strips import SIDE, hues, shaded

CELLS = 16
X = np.linspace(-3.75, 3.75, CELLS)
LOG_NORMAL = -0.5 * (X[None] ** 2 + X[::-1, None] ** 2) - np.log(2 * np.pi)


def plane(shift=0.5, target=True):
    """A film of two moments, in which all is moved along z1."""
    ticks = np.linspace(-1, 1, 4)
    grid = np.stack(np.meshgrid(ticks, ticks), -1)
    samples = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    move = np.array([shift, 0.0])
    return PlaneFilm(
        steps=np.array([0, 1]),
        window=np.array([0.0, 0.0, 4.0]),
        log_density=np.stack([LOG_NORMAL, LOG_NORMAL + 0.1]),
        target=LOG_NORMAL if target else np.empty((0, 0)),
        grid=np.stack([grid, grid + move]),
        samples=np.stack([samples, samples + move]),
    )


def posteriors(plane=True):
    """A film of two images of 2 x 3 pixels."""
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1) * 20
    samples = np.random.default_rng(1).normal(size=(3, 2, 20, 2))
    none = np.empty((0, 2, 3, 1), np.uint8)
    return PosteriorFilm(
        steps=np.array([0, 1, 2]),
        images=images,
        samples=samples,
        windows=np.array([[0.0, 0.0, 3.0], [1.0, 0.0, 3.0]]),
        share=np.array([1.0, 1.0]) if plane else np.array([0.75, 0.5]),
        posterior=np.stack([LOG_NORMAL, LOG_NORMAL]) if plane else np.empty((0, 0, 0)),
        decoded=np.zeros((2, 2, 2, 3, 1), np.uint8) if plane else none[None][:0],
        places=np.zeros((3, 2)) if plane else np.empty((0, 2)),
        thumbnails=np.zeros((3, 2, 3, 1), np.uint8) if plane else none,
    )


FILMS = [plane(), plane(target=False), posteriors(), posteriors(plane=False)]
IDS = ["energy", "drawn", "posteriors", "posteriors of more than two variables"]


@pytest.mark.parametrize("film", FILMS, ids=IDS)
def test_a_film_comes_back_from_its_file(film):
    back = read_film(write_film(film))
    assert type(back) is type(film)
    for field in dataclasses.fields(film):
        expected, found = getattr(film, field.name), getattr(back, field.name)
        assert found.shape == expected.shape, field.name
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("film", FILMS, ids=IDS)
def test_the_same_film_gives_the_same_files(film):
    first, second = (film_files(film, "planar K=1") for _ in range(2))
    assert first == second
    assert set(first) == {"film.npz", "film.gif", "film.html"}
    with zipfile.ZipFile(io.BytesIO(first["film.npz"])) as packed:
        assert {entry.date_time for entry in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_samples_keep_all_digits_of_float32_and_dark_is_cut_at_the_floor():
    film = dataclasses.replace(plane(), log_density=np.full((2, CELLS, CELLS), -1e6))
    back = read_film(write_film(film))
    np.testing.assert_array_equal(back.samples, film.samples.astype(np.float32))
    assert (back.log_density == FLOOR).all()


@pytest.mark.parametrize(
    ("length", "shown"),
    [(0, [0]), (1, [0, 1]), (8, [*range(9)]), (16, [*range(17)]), (32, [*range(0, 33, 2)]), (80, [*range(0, 81, 5)])],
)
def test_long_chains_show_steps_evenly_with_both_ends(length, shown):
    assert moments(length) == shown
    assert len(shown) <= MOST_STEPS


def _changed(**arrays):
    with np.load(io.BytesIO(write_film(plane()))) as file:
        content = {**file, **arrays}
    out = io.BytesIO()
    np.savez_compressed(out, **content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a film"),
        (b"PK nothing", "not a film"),
        (write_film(plane())[:-30], "not a film"),
        (_changed(kind=np.array("wave")), "not a film"),
        (_changed(steps=np.empty(0, int), log_density=np.empty((0, 16, 16))), "expected"),
        (_changed(grid=np.zeros((2, 4, 5, 2))), r"grid of shape \(2, 4, 5, 2\)"),
        (_changed(samples=np.zeros((3, 4, 2))), r"samples of shape \(3, 4, 2\)"),
        (_changed(samples=np.full((2, 4, 2), np.nan)), "samples: numbers that are not finite"),
        (_changed(samples=np.zeros((2, 5000, 2))), "more than 4,096"),
        (_changed(samples=np.zeros((2, 5_000_000, 2))), "bytes unpacked; expected: at most"),
        (_changed(target=np.array([["a"]])), "target of shape"),
        (_changed(target=np.array([{"a": 1}], dtype=object)), "allow_pickle"),
    ],
)
def test_what_is_no_film_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        read_film(content)


def test_a_gif_shows_each_moment_and_the_last_one_longer():
    gif = Image.open(io.BytesIO(film_gif([strip_of(posteriors(), "planar")])))
    durations = []
    for place in range(gif.n_frames):
        gif.seek(place)
        durations.append(gif.info["duration"])
    assert durations == [MILLISECONDS, MILLISECONDS, PAUSE * MILLISECONDS]
    assert gif.info["loop"] == 0


def test_shades_run_from_black_to_the_end_of_the_colour_map():
    values = np.zeros((8, 8))
    values[:, 4:] = 1.0
    pixels = np.asarray(shaded(values))
    assert pixels[0, 0].tolist() == [0, 0, 4]
    assert pixels[0, -1].tolist() == [252, 253, 191]
    import matplotlib

    magma = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))[:, :3] * 255
    from nfstudy.films.strips import SHADES

    assert np.abs(SHADES - magma).max() < 6


def test_the_grid_and_the_samples_are_drawn_where_they_are():
    truth, _, grid, samples = strip_of(plane(shift=2.0, target=True), "x").panels
    assert len(truth.frames) == 1
    before, after = (
        np.asarray(frame).astype(int) for frame in strip_of(plane(2.0, target=False), "x").panels[1].frames
    )
    assert before.shape == (SIDE, SIDE, 3)
    columns = [np.flatnonzero((frame.max(2) > 60).any(0)) for frame in (before, after)]
    unit = SIDE / 8
    assert columns[0][[0, -1]] == pytest.approx([3 * unit, 5 * unit], abs=2)  # of [−1, 1] in (−4, 4)
    assert columns[1][[0, -1]] == pytest.approx([5 * unit, 7 * unit], abs=2)
    assert [len(panel.frames) for panel in (grid, samples)] == [2, 2]


def test_colours_go_by_the_direction_from_the_middle():
    colours = hues(np.array([[1.0, 0.1], [2.0, 0.2], [-1.0, -0.1], [-2.0, -0.2]]))
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_a_page_needs_nothing_else_and_can_be_used_by_keyboard_and_without_motion():
    page = film_page([strip_of(plane(), "planar <1>")], "Caption & more")
    assert not re.search(r"(src|href)\s*=|https?://|@import", page)
    assert set(re.findall(r"url\((.{9})", page)) == {"data:imag"}
    assert "planar &lt;1&gt;" in page
    assert "Caption &amp; more" in page
    assert '<input type="range" min="0" max="1" value="1" step="1" aria-label="step k"' in page
    assert '<button type="button">' in page
    assert "prefers-reduced-motion" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('role="img" aria-label="') == 4


def test_a_shorter_chain_beside_a_longer_one_stays_at_its_end():
    strips = [strip_of(plane(), "one"), strip_of(posteriors(), "two")]
    player = film_player(strips, "")
    assert 'data-steps="0 1 2"' in player
    assert re.findall(r"--last: (\d)", player) == ["1", "2"]
    assert Image.open(io.BytesIO(film_gif(strips, "both"))).n_frames == 3
