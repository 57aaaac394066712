"""The exhibit `stochastic-layers`: what it lists of each layer, by hand, and the published rows beside it."""

import pytest
from support.fake_runs import run_all, study

from nfstudy.papers.rezende2015.published import BURDA_2016
from nfstudy.report.build import make_exhibit
from nfstudy.report.statistics.estimates import gather_results

TEXT = """
study: deep
title: Deep
data: {name: mnist, binarisation: static}
model: {latent: 8, latent_ratio: 0.5}
grid: {model.stochastic_layers: [1, 2, 3], flow.family: [planar], flow.length: [0, 4]}
repetitions: 3
budgets: {full: {}}
exhibits: [stochastic-layers]
"""
GAIN = {1: 0.0, 2: 1.0, 3: 1.5}


def shown(text=TEXT, logged=True, gain=GAIN, guided=False):
    spec = study(text)
    runs = run_all(spec, "full")
    for record in runs.records:
        layers, index = record["model.stochastic_layers"], record["index"]
        if not logged:
            continue
        nll = 90.0 - gain[layers] + 0.1 * index + 0.001 * index**2 * layers
        record.update({"test/nll_tight": nll, "train/parameters": 1000.0 * layers})
        for layer in range(1, layers + 1):
            runs.points.append((record["run_id"], "test/active_layer", layer, 10.0 / layer + (index == 3)))
            if not guided:
                runs.points.append((record["run_id"], "test/kl_layer", layer, 6.0 / layer))
    return make_exhibit("stochastic-layers", gather_results(spec.under("full"), runs))


def texts(row):
    return [entry.display for entry in row.entries]


def test_each_row_has_the_numbers_of_all_layers_from_the_image_up():
    rows = {row.name: texts(row) for row in shown().tables[0].rows}
    deep = rows["NF (planar), K = 4, stochastic layers = 3"]
    assert deep[2:6] == ["8 + 4 + 2", "10.3 + 5.3 + 3.7", "6.00 + 3.00 + 2.00", "3,000"]
    assert rows["diagonal Gaussian, K = 0, stochastic layers = 1"][2:5] == ["8", "10.3", "6.00"]


def test_the_second_table_has_a_row_for_each_layer_with_its_error():
    table = shown().tables[1]
    assert len(table.rows) == 2 * (1 + 2 + 3)
    last = table.rows[-1]
    assert last.name == "NF (planar), K = 4, stochastic layers = 3, layer 3"
    assert texts(last)[:3] == ["2", "3.7 ± 0.3 (3)", "2.00 ± 0.00 (3)"]


def test_published_rows_are_named_as_others_and_set_beside_mnist_alone():
    exhibit = shown()
    published = [row for row in exhibit.tables[0].rows if row.name.startswith("Burda")]
    assert len(published) == 10
    assert texts(published[0])[:4] == ["–", "88.71", "–", "19"]
    assert "published by others, of another architecture" in texts(published[0])[6]
    assert texts(published[-1])[1] == "85.32"
    assert "are not ours: MNIST, static binarisation" in exhibit.tables[0].caption
    digits = shown(TEXT.replace("{name: mnist, binarisation: static}", "{name: digits, binarisation: static}"))
    assert not any(row.name.startswith("Burda") for row in digits.tables[0].rows)
    assert "Burda et al. (2016) are not ours" not in digits.tables[0].caption
    dynamic = shown(TEXT.replace("static", "dynamic"))
    assert texts(next(row for row in dynamic.tables[0].rows if row.name.startswith("Burda")))[1:4] == [
        "86.76",
        "–",
        "–",
    ]


def test_the_published_numbers_are_those_of_the_paper_facts():
    rows = {
        (kind, row.method, row.samples, row.layers): row.published.value
        for kind in BURDA_2016
        for row in BURDA_2016[kind]
    }
    assert rows["static", "VAE", 50, 1] == 89.05
    assert rows["static", "IWAE", 5, 2] == 86.17
    assert rows["dynamic", "IWAE", 50, 2] == 82.90
    assert ("static", "IWAE", 1, 1) not in rows, "at k = 1 it is the VAE"


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        (GAIN, "Yes. "),
        ({1: 0.0, 2: -1.0, 3: -1.0}, "No: it is higher in 4 of 4 comparisons. "),
        ({1: 0.0, 2: 1.0, 3: 0.0}, "In 2 of 4 comparisons. "),
    ],
)
def test_the_answer_follows_from_pairs_of_seeds(gain, word):
    answer = shown(gain=gain).answer
    assert answer.question == "Do further stochastic layers lower −ln p(x)?"
    assert answer.text.startswith(word)
    assert "Differences to L = 1 in −ln p(x), tight, nats per image" in answer.text
    assert answer.text.endswith("Deeper models have more parameters.")


def test_runs_without_numbers_of_layers_say_so_and_nothing_is_made_up():
    exhibit = shown(logged=False)
    assert texts(exhibit.tables[0].rows[0])[3:5] == ["–", "–"]
    assert "not measured" in texts(exhibit.tables[1].rows[0])[1]


def test_a_guided_chain_has_no_kl_of_a_layer():
    rows = shown(guided=True).tables[1].rows
    assert texts(rows[0])[1].startswith("10.3")
    assert "one guided chain spans all layers" in texts(rows[0])[2]
