"""Films in reports, of real runs: drawn, carried by archives, the same each time, and told of where there are none."""

import json

import pytest
from PIL import Image
from support.command_line import digests, nfstudy

from nfstudy.films import read_film

pytestmark = pytest.mark.end_to_end

PLANE = """\
study: plane
title: Two energies
energy: {{name: u1}}
train: {{updates: 20, batch: 32, optimiser: adam, learning_rate: 1e-2}}
objective: {{anneal_updates: 10}}
evaluation: {{samples: 500}}
grid: {{energy.name: [u1, u2], flow.family: [planar, radial], flow.length: [0, 2, 3]}}
paper: none
exhibits: {exhibits}
{also}
"""
IMAGES = """\
study: images
title: Images
data: {name: digits}
model: {latent: 2, hidden: 8, layers: 1, maxout: 2}
train: {updates: 5, batch: 20, optimiser: adam, learning_rate: 1e-3}
evaluation: {samples: 5, test_images: 20, tight_images: 0}
grid: {flow.family: [planar], flow.length: [0, 2]}
paper: none
exhibits: [films, latent-map]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with films of two studies, of which one runs after the other."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "studies").mkdir()
    (folder / "studies/plane.yaml").write_text(PLANE.format(exhibits="[films]", also="also: [images]"))
    (folder / "studies/images.yaml").write_text(IMAGES)
    done = nfstudy(folder, "run", "plane", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("plane, budget") < done.stdout.index("images, budget")
    return folder


def test_each_run_with_a_flow_has_its_film_and_the_report_shows_the_longest_of_each_family(project):
    files = sorted(path.name for path in project.glob("mlruns/artifacts/plane/*/artifacts/film.*"))
    assert files == ["film.gif"] * 8 + ["film.html"] * 8 + ["film.npz"] * 8
    page = (project / "reports/plane/index.html").read_text()
    assert page.count('<figure class="film"') == 2
    assert page.count("NF (planar), K = 3</p>") == page.count("NF (radial), K = 3</p>") == 2
    assert "NF (planar), K = 2</p>" not in page
    assert page.count("<script>") == 1
    gif = Image.open(project / "reports/plane/films/film-1.gif")
    assert gif.n_frames == 4
    markdown = (project / "reports/plane/index.md").read_text()
    assert "(films/film-1.gif)" in markdown
    assert "(films/film-2.gif)" in markdown


def test_the_manifest_names_the_films_and_their_runs(project):
    manifest = json.loads((project / "reports/plane/manifest.json").read_text())
    exhibit = manifest["exhibits"]["films"]
    assert {"films/film-1.gif", "films/film-2.gif"} <= set(manifest["files"]) & set(exhibit["files"])
    assert len(exhibit["runs"]) == 8


def test_images_have_posteriors_and_a_map(project):
    page = (project / "reports/images/index.html").read_text()
    assert page.count('<figure class="film"') == 1
    assert page.count(">image ") == 6
    (path,) = project.glob("mlruns/artifacts/images/*/artifacts/film.npz")
    film = read_film(path.read_bytes())
    assert (film.samples.shape, film.places.shape) == ((3, 6, 200, 2), (20, 2))
    assert (project / "reports/images/figures/latent-map-1.png").is_file()
    assert "1 of 2 cells have no run with a latent map" in page


def test_the_same_report_comes_of_the_same_runs_and_of_their_archive(project, tmp_path):
    before = digests(project / "reports/plane/films")
    assert nfstudy(project, "report", "plane").returncode == 0
    assert digests(project / "reports/plane/films") == before
    done = nfstudy(project, "export", "plane", str(tmp_path / "plane.tar.xz"))
    assert done.returncode == 0, done.stderr
    done = nfstudy(tmp_path, "import", "plane.tar.xz")
    assert done.returncode == 0, done.stderr
    (tmp_path / "plane.yaml").write_text((project / "studies/plane.yaml").read_text())
    assert nfstudy(tmp_path, "report", "plane.yaml").returncode == 0
    assert digests(tmp_path / "reports/plane/films") == before


def test_runs_without_films_are_told_of_and_not_run_again(tmp_path):
    study = tmp_path / "plane.yaml"
    study.write_text(PLANE.format(exhibits="[summary]", also=""))
    assert nfstudy(tmp_path, "run", "plane").returncode == 0
    assert not [*tmp_path.glob("mlruns/artifacts/plane/*/artifacts/film.*")]
    study.write_text(PLANE.format(exhibits="[films]", also=""))
    done = nfstudy(tmp_path, "run", "plane")
    assert done.returncode == 0, done.stderr
    assert "0 runs to do" in done.stdout
    page = (tmp_path / "reports/plane/index.html").read_text()
    assert "8 of 8 cells have runs without a film" in page
    assert page.count("run without a film") >= 8
    assert "<script>" not in page
    assert not (tmp_path / "reports/plane/films").exists()


def test_a_film_that_cannot_be_read_is_told_with_its_run(project, tmp_path):
    (path,) = project.glob("mlruns/artifacts/images/*/artifacts/film.npz")
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        done = nfstudy(project, "report", "images")
        assert done.returncode == 2
        assert f"run {path.parts[-3]}, film.npz: not a film" in done.stderr
    finally:
        path.write_bytes(content)


def test_a_study_that_is_to_run_after_another_must_be_there(tmp_path):
    (tmp_path / "plane.yaml").write_text(PLANE.format(exhibits="[summary]", also="also: [elsewhere]"))
    done = nfstudy(tmp_path, "run", "plane")
    assert done.returncode == 2
    assert "plane.yaml: also: got 'elsewhere', and there is no elsewhere.yaml" in done.stderr
    assert not (tmp_path / "mlruns").exists()
