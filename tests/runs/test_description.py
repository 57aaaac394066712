"""What MLflow's page of a run says of it."""

import pytest

from nfstudy.runs.description import Described, cell_name, describe, is_written, run_name
from nfstudy.runs.original import original_tags
from nfstudy.runs.tags import MlflowTag, Tag

NUMBERS = {"test/elbo": -90.5, "test/kl": 3.25, "test/nll": 87.25, "valid/elbo": -91.0}


def test_of_images_kl_and_the_likelihood_are_bounds():
    text = describe(Described("repetition", "finished", "", NUMBERS, "nats per image"), "reports/s/index.html")
    assert text.splitlines()[0] == "F = 90.500, KL ≥ 3.250, −ln p(x) ≤ 87.250 nats per image, on the test set."
    assert "Finished. One of the runs behind `reports/s/index.html`" in text


def test_of_an_energy_kl_is_exact_and_f_may_be_negative():
    text = describe(
        Described("repetition", "finished", "", {"test/elbo": 2.5, "test/kl": 0.0081}, "nats"), "reports/s/index.html"
    )
    assert text.splitlines()[0] == "F = −2.500, KL = 0.008 nats, on the test set."


def test_without_numbers_it_says_why():
    text = describe(Described("search", "diverged", "loss is nan\nat update 3", {}, "nats"), "reports/s/index.html")
    assert text.splitlines()[0] == "Diverged: loss is nan at update 3."
    assert "never sees the test set" in text


def test_what_somebody_has_written_in_its_place_is_theirs_and_is_exported():
    ours = describe(Described("repetition", "finished", "", NUMBERS, "nats"), "reports/s/index.html")
    assert is_written(ours)
    assert not is_written("F is too high.")
    tags = {Tag.STAGE: "repetition", Tag.CELL_NAME: "planar K=2", MlflowTag.USER: "alice"}
    assert original_tags(tags | {MlflowTag.NOTE: ours}) == {Tag.STAGE: "repetition"}
    assert original_tags(tags | {MlflowTag.NOTE: "Look at this."})[MlflowTag.NOTE] == "Look at this."


@pytest.mark.parametrize(
    "label", ["planar K=40 D=40 #2", "u1 planar K=8, train.batch 50 search 11", "none K=0 rerun 1"]
)
def test_a_cells_name_is_that_of_its_runs_without_their_number(label):
    assert cell_name(run_name(label, "laptop")) == label.rsplit(" ", 2 if "#" not in label else 1)[0]


def test_a_name_of_somebodys_own_is_left():
    assert cell_name("my best run") == "my best run"
