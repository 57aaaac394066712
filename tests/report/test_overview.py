"""The front page: every number leads to its runs, text from outside stays text, what is missing is marked."""

import json
import re
import subprocess
from html.parser import HTMLParser
from shutil import which
from urllib.parse import unquote

import pytest
from support.command_line import TINY, digests, nfstudy
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.core.errors import SpecError
from nfstudy.papers.rezende2015 import REZENDE2015
from nfstudy.report.exhibits import general as exhibits
from nfstudy.report.pages import embedded as embedding
from nfstudy.report.pages.embedded import MAX_POINTS, embed_runs
from nfstudy.report.pages.overview import build_front
from nfstudy.report.shown import gather_fullest, repeated_bodies, shown_bodies
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.study.reader import read_studies

pytestmark = pytest.mark.slow

SMALL = """
study: small
title: Small
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 10]}
repetitions: 2
budgets: {full: {}, laptop: {train.updates: 2000}}
budget: full
exhibits: [table-2, figure-4, learning-curves]
"""


class Reader(HTMLParser):
    """What a page holds: its links, its attributes and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.links, self.scripts, self.ids, self.addresses, self.tags = [], {}, [], [], []
        self.script = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]
        if "data-runs" in found:
            self.links.append((found["href"], found["data-runs"].split(" ")))
        if tag == "script":
            self.script = found.get("id", "code")
            self.scripts[self.script] = ""

    def handle_endtag(self, tag):
        self.script = None if tag == "script" else self.script

    def handle_data(self, data):
        if self.script:
            self.scripts[self.script] += data


def build(folder, runs, spec=None, **others):
    spec = spec or study(SMALL)
    stores = {spec.study: runs} | {name: FakeRuns() for name in others}
    studies = {"studies/small.yaml": spec} | {f"studies/{name}.yaml": other for name, other in others.items()}
    page = build_front(studies, stores.__getitem__, folder).read_text()
    return page, Reader(page)


def embedded(reader):
    return json.loads(reader.scripts["runs"])


def test_of_many_runs_the_page_holds_the_learning_curves_of_the_first_of_each_cell(tmp_path, monkeypatch):
    runs = run_all(study(SMALL), "full")
    monkeypatch.setattr(embedding, "MAX_RUNS", 5)
    monkeypatch.setattr(exhibits, "MAX_LINES", 4)
    page, reader = build(tmp_path, runs)
    first = {record["run_id"] for record in runs.records if record["index"] == 1}
    assert {run_id for run_id, run in embedded(reader)["runs"].items() if run["curves"]} == first
    assert [run["curves"] for run_id, run in embedded(reader)["runs"].items() if run_id not in first] == [None] * 3
    assert "the first repetition of each cell, 3 of 6 runs; the table, all runs." in page
    assert "this page holds the learning curves of a few for each cell" in reader.scripts["code"]


def test_every_number_opens_the_runs_it_comes_from(tmp_path):
    runs = run_all(study(SMALL), "full")
    page, reader = build(tmp_path, runs)
    inside = embedded(reader)["runs"]
    assert set(inside) == {record["run_id"] for record in runs.records}
    assert {run for _, ids in reader.links for run in ids} == set(inside)
    lines = Reader((tmp_path / "small/index.html").read_text()).ids
    for address, ids in reader.links:
        file, anchor = address.split("#")
        assert file == "small/index.html"
        assert anchor in lines
        assert anchor in (f"run-{ids[0]}", "runs")
    exhibits = page.partition('class="study"')[2].partition('id="complete"')[0]
    shown = re.findall(r'data-runs="([^"]+)">(?:[≤≥] )?(\d+\.\d\d) ± \d+\.\d\d \(2\)</a>', exhibits)
    values = {record["run_id"]: record for record in runs.records}
    signs = {"test/nll": 1, "test/kl": 1, "test/elbo": -1, "train/elbo": -1, "valid/elbo": -1}
    assert len(shown) == 3 + 9 + 6, "of Table 2, of Figure 4, of the ends of the learning curves"
    for ids, number in shown:
        means = [sum(sign * values[i][name] for i in ids.split()) / 2 for name, sign in signs.items()]
        assert any(abs(float(number) - mean) <= 0.005 + 1e-9 for mean in means)
    assert len(re.findall(r'data-runs="[^"]+">[+−]\d+\.\d\d</a>', page)) == 3 + 9, "the differences"
    opening = page.partition('class="opening"')[2].partition('id="claims"')[0]
    numbers = r'data-runs="[^"]+">(?:[≤≥] )?\d+\.\d\d ± \d+\.\d\d \(2\)</a>'
    assert len(re.findall(numbers, opening)) == 3 + 3, "of Table 2 and of F"


def test_a_run_is_embedded_with_all_that_made_it():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    changed = next(record for record in runs.records if record["flow.family"] == "planar")
    changed.update({"test/nll": 88.123456789, "test/kl": float("nan"), "dirty": True, "commit": "fedcba"})
    changed["train.learning_rate"] = 0.00123456789012
    content = embed_runs({"small": gather_results(spec.under("full"), runs)})
    run = content["runs"][changed["run_id"]]
    assert run["metrics"]["test/nll"] == 88.12346
    assert "test/kl" not in run["metrics"]
    assert (run["commit"], run["dirty"], run["digest"], run["outcome"]) == ("fedcba", True, "ab" * 32, "finished")
    assert run["name"] == "NF (planar), K = 10, repetition 1"
    common = content["studies"]["small"]["common"]
    assert run["params"]["train.learning_rate"] == "0.00123456789012"
    assert run["params"]["flow.length"] == "10"
    assert common["model.latent"] == "40"
    assert "train.learning_rate" not in common
    assert not set(run["params"]) & set(common)
    other = next(record["run_id"] for record in runs.records if record["flow.family"] == "none")
    assert "flow.coupling_hidden" not in {**common, **content["runs"][other]["params"]}
    used = next(cell for cell in gather_results(spec.under("full"), runs).cells if cell.label.family == "planar")
    assert set(used.cell.settings.flat()) == {**common, **run["params"]}.keys()


def test_curves_are_thinned_with_both_ends_kept_and_show_f():
    spec = study(SMALL)
    runs = run_all(spec, "full", lambda _: None)
    results = gather_results(spec.under("full"), run_all(spec, "full"))
    run_id = results.runs["run_id"].iloc[0]
    runs.records = run_all(spec, "full").records
    runs.points = [(run_id, "valid/elbo", update, -100.0 - 1 / update) for update in range(1, 1001)]
    runs.points.append((run_id, "train/elbo", 1, float("nan")))
    curves = embed_runs({"small": gather_results(spec.under("full"), runs)})["runs"][run_id]["curves"]
    assert list(curves) == ["validation"]
    assert len(curves["validation"]) == MAX_POINTS
    assert curves["validation"][0] == [1, 101.0]
    assert curves["validation"][-1] == [1000, 100.001]


def test_text_from_outside_stays_text(tmp_path):
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    spec = study(SMALL, title=f'"{nasty}"')
    runs = run_all(spec, "full", lambda t: "diverged" if t.index == 1 else "finished")
    for record in runs.records:
        record["reason"] = record["commit"] = record["device"] = nasty
    _, clean = build(tmp_path / "clean", run_all(study(SMALL), "full"))
    _, reader = build(tmp_path / "nasty", runs, spec)
    assert reader.tags.count("script") == 2
    assert reader.tags.count("img") == clean.tags.count("img")
    assert embedded(reader)["runs"][runs.records[0]["run_id"]]["reason"] == nasty
    code = reader.scripts["code"]
    assert "innerHTML" not in code
    assert "insertAdjacentHTML" not in code


def test_nothing_is_asked_of_the_net(tmp_path):
    runs = run_all(study(SMALL), "full")
    runs.server = "http://tracking.example"
    page, reader = build(tmp_path, runs)
    assert "default-src 'none'" in page
    asked = {address.split("/")[0].split("#")[0] for address in reader.addresses if address != REZENDE2015.url}
    assert asked <= {"", "data:image", "small"}
    assert embedded(reader)["runs"][runs.records[0]["run_id"]]["link"].startswith("http://tracking.example/")


def test_anchors_of_the_page_are_there_once(tmp_path):
    _, reader = build(tmp_path, run_all(study(SMALL), "full"), idle=study(SMALL, study="idle"))
    assert len(reader.ids) == len(set(reader.ids))
    assert {address[1:] for address in reader.addresses if address.startswith("#")} <= set(reader.ids)


def test_what_is_missing_is_marked_and_what_has_not_run_is_named_with_its_command(tmp_path):
    spec = study(SMALL)
    runs = run_all(spec, "full", lambda t: "finished" if t.settings.flow.length == 0 else None)
    page, _ = build(tmp_path, runs, idle=study(SMALL, study="idle", title="Idle study"))
    assert "incomplete: 1 of 3 cells" in page
    assert '<span class="state open">incomplete</span>' in page
    assert "Idle study. To run it: <code>python -m nfstudy run studies/idle.yaml</code>" in page
    assert "<strong>1<small> of 3</small></strong> cells complete" in page
    assert (tmp_path / "small/index.html").exists()
    assert not (tmp_path / "idle").exists()
    assert [part["study"] for part in json.loads((tmp_path / "manifest.json").read_text())["studies"]] == ["small"]


def test_a_study_is_shown_under_the_budget_that_has_runs(tmp_path):
    spec = study(SMALL)
    runs = run_all(spec, "laptop")
    page, reader = build(tmp_path, runs)
    assert "Shown under the budget laptop: more is complete there than under full, the study's own." in page
    assert embedded(reader)["studies"]["small"]["budget"] == "laptop"
    both = run_all(spec, "full", lambda t: "finished" if t.index == 1 else None)
    both.records += runs.records
    assert gather_fullest(spec, both).budget == "laptop"
    both = run_all(spec, "full")
    both.records += runs.records
    assert gather_fullest(spec, both).budget == "full"
    assert gather_fullest(spec, FakeRuns()).budget == "full"


def test_trials_of_a_search_do_not_make_a_budget_the_fullest(tmp_path):
    spec = study(SMALL.replace("laptop: {", "first: {train.clip_norm: 5.0}, laptop: {"))
    runs = run_all(spec, "first")
    tried = run_all(spec, "laptop")
    shortest = [record for record in tried.records if record["index"] == 1]
    trials = [
        record | {"stage": "search", "run_id": f"{n}{record['run_id'][1:]}"} for n in range(9) for record in shortest
    ]
    runs.records += [*shortest, *trials]
    assert gather_fullest(spec, runs).budget == "first"


def test_what_is_half_done_does_not_take_the_place_of_what_is_whole():
    spec = study(SMALL.replace("laptop: {", "long: {repetitions: 9, train.updates: 7}, laptop: {"))
    runs = run_all(spec, "full")
    half = run_all(spec, "long", lambda trial: "finished" if trial.index < 6 else None)
    assert len(half.records) > len(runs.records)
    assert gather_fullest(spec, half).budget == "long"
    assert gather_fullest(spec, FakeRuns([*runs.records, *half.records])).budget == "full"


def test_claims_are_not_judged_by_one_seed_where_another_budget_has_more(tmp_path):
    spec = study(SMALL.replace("laptop: {", "one: {repetitions: 1, train.clip_norm: 5.0}, laptop: {"))
    runs, one = run_all(spec, "laptop"), run_all(spec, "one")
    bodies = shown_bodies(spec, FakeRuns([*runs.records, *one.records]))
    assert [body.results.budget for body in bodies] == ["laptop", "one"]
    assert [body.results.budget for body in repeated_bodies(bodies)] == ["laptop"]
    assert [body.results.budget for body in repeated_bodies(shown_bodies(spec, one))] == ["one"]


def test_each_budget_that_has_runs_has_a_page_which_leads_to_the_others(tmp_path):
    spec = study(SMALL.replace("laptop: {", "a/b :: {train.clip_norm: 5.0}, laptop: {"))
    runs = run_all(spec, "full")
    for budget in ("laptop", "a/b :"):
        runs.records += run_all(spec, budget).records
    page, reader = build(tmp_path, runs, spec)
    folders = {"full": "small", "laptop": "small/budget-laptop", "a/b :": "small/budget-a%2Fb%20%3A"}
    for budget, folder in folders.items():
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert (manifest["study"], manifest["budget"]) == ("small", budget)
        text = (tmp_path / folder / "index.html").read_text()
        assert f"<h1>Small (budget {budget})</h1>" in text
        links = [address for address in Reader(text).addresses if address.endswith("/index.html")]
        found = {(tmp_path / folder / unquote(address)).resolve() for address in links}
        others = {tmp_path / other / "index.html" for name, other in folders.items() if name != budget}
        assert found == {tmp_path / "index.html", *others}
    text = (tmp_path / "small/index.md").read_text()
    tables = [unquote(place) for place in re.findall(r"\]\((tables/[^)\s]+)\)", text)]
    assert "tables/claims-a%2Fb%20%3A.csv" in tables
    assert all((tmp_path / "small" / place).is_file() for place in tables)
    inside = embedded(reader)["runs"]
    assert set(inside) == {record["run_id"] for record in runs.records}
    for run in inside.values():
        file, _, anchor = run["line"].partition("#")
        assert f'id="{anchor}"' in (tmp_path / unquote(file)).read_text()
    assert "<strong>9<small> of 9</small></strong> cells complete" in page
    assert len(reader.ids) == len(set(reader.ids))
    listed = json.loads((tmp_path / "manifest.json").read_text())["studies"]
    assert [(part["budget"], part["manifest"]) for part in listed] == [
        (budget, f"{folders[budget]}/manifest.json") for budget in ("full", "a/b :", "laptop")
    ]
    first = digests(tmp_path)
    build(tmp_path, runs, spec)
    assert digests(tmp_path) == first


def test_claims_are_judged_on_every_study_that_bears_on_them(tmp_path):
    spec = study(SMALL, study="mnist", repetitions="3")
    page, _ = build(tmp_path / "run", run_all(spec, "full"), spec)
    words = re.findall(r'<strong data-verdict="([^"]+)">\1</strong>', page)
    assert len(words) == page.count('<li id="claim-')
    assert "undecided" in words, "some of its cells have run"
    page, _ = build(tmp_path / "other", run_all(study(SMALL), "full"))
    assert '<th scope="col" class="words"><a href="small/index.html#claims">small full</a>' in page
    assert re.search(r'">undecided</strong> on small full <span class="remark">', page)


def test_two_builds_give_the_same_bytes_and_leave_other_files(tmp_path):
    spec = study(SMALL)
    (tmp_path / "first").mkdir()
    build(tmp_path / "first", run_all(spec, "full"))
    build(tmp_path / "second", run_all(spec, "full", reverse=True))
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    before = digests(tmp_path / "first")
    (tmp_path / "first/notes.txt").write_text("mine")
    build(tmp_path / "first", run_all(spec, "full"))
    assert {name: digest for name, digest in digests(tmp_path / "first").items() if name != "notes.txt"} == before


def test_500_runs_stay_small(tmp_path):
    spec = study(SMALL, repetitions="167", exhibits="[summary]")
    page, reader = build(tmp_path, run_all(spec, "full"))
    assert len(embedded(reader)["runs"]) == 501
    without_pictures = re.sub(r"data:image[^\"]+", "", page)
    assert len(without_pictures.encode()) < 3_000_000


@pytest.mark.skipif(which("chromium") is None, reason="no chromium on this machine to open the page in")
def test_a_browser_runs_the_script_without_a_complaint(tmp_path):
    build(tmp_path, run_all(study(SMALL), "full"))
    page = (tmp_path / "index.html").read_text()
    opened = """<script>addEventListener("load", () => {
      document.querySelector(".study a[data-runs]").click();
      const panel = document.getElementById("panel");
      document.title = `${panel.querySelectorAll("svg polyline").length} ${panel.open}`;
    });</script></body>"""
    (tmp_path / "index.html").write_text(page.replace("</body>", opened))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = ["chromium", *flags, "--dump-dom", (tmp_path / "index.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # Two curves and two keys of the legend for each of the number's two runs.
    assert "<title>8 true</title>" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got neither STUDY nor --all"),
        (["--all", "--output", "x"], "--output x: expected: with STUDY"),
        (["--all", "--budget", "full"], "--budget full: expected: with STUDY"),
        (["--all"], "no store"),
    ],
    ids=["neither", "output", "budget", "no store"],
)
def test_a_mistake_on_the_command_line_ends_with_2(arguments, message, tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/tiny.yaml").write_text(TINY)
    done = nfstudy(tmp_path, "report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "reports").exists()


def test_all_studies_are_read_by_name_and_a_broken_one_is_named(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.yaml").write_text(TINY.replace("study: tiny", f"study: {name}"))
    assert [spec.study for spec in read_studies(tmp_path).values()] == ["a", "b"]
    (tmp_path / "c.yaml").write_text(TINY.replace("study: tiny", "study: a"))
    with pytest.raises(SpecError, match=r"a\.yaml: study: got 'a' as in another file"):
        read_studies(tmp_path)
    (tmp_path / "c.yaml").write_text("study: [")
    with pytest.raises(SpecError, match=r"c\.yaml"):
        read_studies(tmp_path)
    with pytest.raises(SpecError, match="contains no study files"):
        read_studies(tmp_path / "none")


def test_studies_of_the_paper_come_first(tmp_path):
    specs = {name: study(SMALL.replace("study: small", f"study: {name}")) for name in ("b", "c")}
    specs = {"a": study(SMALL.replace("study: small", "study: a"), exhibits="[summary]"), **specs}
    stores = {name: run_all(spec, "full") for name, spec in specs.items()}
    page = build_front(specs, stores.__getitem__, tmp_path).read_text()
    places = {name: page.index(f'href="{name}/index.html"') for name in "abc"}
    assert sorted(places, key=places.get) == ["b", "c", "a"]


def test_mnist_stands_before_cifar10_and_the_energies_after(tmp_path):
    text = SMALL.replace("study: small", "study: cifar10").replace("mnist, binarisation: static", "cifar10")
    cifar10 = study(text.replace("flow.family: [planar, nice-perm]", "flow.family: [planar]"), exhibits="[table-3]")
    specs = {"studies/cifar10.yaml": cifar10, "studies/mnist.yaml": study(SMALL.replace("small", "mnist"))}
    stores = {spec.study: run_all(spec, "full") for spec in specs.values()}
    page = build_front(specs, stores.__getitem__, tmp_path).read_text()
    assert page.index('<section class="study" id="mnist">') < page.index('<section class="study" id="cifar10">')
    assert page.index('<section id="claims">') < page.index('<section class="study" id="mnist">')


def test_a_study_is_folded_under_its_answer_and_pages_link_to_each_other_the_paper_and_mlflow(tmp_path):
    page, reader = build(tmp_path, run_all(study(SMALL), "full"))
    part = page.partition('<section class="study" id="small">')[2].partition('<section id="complete">')[0]
    assert part.index('class="answer"') < part.index('<details class="fold">') < part.index("<table>")
    assert '<details class="fold" open' not in page
    own = (tmp_path / "small/index.html").read_text()
    for text in (page, own):
        assert f'<a href="{REZENDE2015.url}">' in text
        assert "<code>python -m nfstudy ui</code>" in text
    assert '<a href="../index.html"' in own
    assert "small/index.html" in reader.addresses


def test_figures_stand_in_the_pages_themselves_for_prints_and_screenshots(tmp_path):
    page, reader = build(tmp_path, run_all(study(SMALL), "full"))
    own = (tmp_path / "small/index.html").read_text()
    for text in (page, own):
        assert text.count('<svg class="drawing"') == 2, "Figure 4 and the learning curves"
        assert not re.search(r'<img|loading="lazy"|decoding="async"', text)
        assert "@media screen and (prefers-color-scheme: dark)" in text
    assert len(reader.ids) == len(set(reader.ids))


@pytest.mark.skipif(which("chromium") is None, reason="no chromium on this machine to open the page in")
@pytest.mark.parametrize("name", ["index.html", "small/index.html"])
def test_at_400_pixels_nothing_but_tables_and_figures_scrolls_sideways(name, tmp_path):
    build(tmp_path, run_all(study(SMALL), "full"))
    path = tmp_path / name
    asked = """<script>addEventListener("load", () => {
      for (const block of document.querySelectorAll("details")) block.open = true;
      const page = document.documentElement;
      document.title = `${page.scrollWidth - page.clientWidth} px too wide`;
    });</script></body>"""
    # A window of chromium has a least width, so that the page stands in a frame.
    path.with_name("inner.html").write_text(path.read_text().replace("</body>", asked))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="{path.with_name("inner.html").as_uri()}" width="400" height="900"></iframe><script>'
        'addEventListener("load", () => { document.title = document.querySelector("iframe").contentDocument.title; });'
        "</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--disable-sync"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    command = ["chromium", *flags, "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "<title>0 px too wide</title>" in done.stdout


def test_the_page_begins_with_the_verdict_the_figure_the_table_and_the_ledger(tmp_path):
    spec = study(SMALL.replace("small", "mnist"), repetitions="3")
    runs = run_all(spec, "full")
    runs.records += run_all(spec, "laptop").records
    page, _ = build(tmp_path, runs, spec)
    places = [
        page.index(words)
        for words in (
            "<h1>",
            "Of the paper&#39;s 18 claims, none stands, ",
            '<svg class="drawing"',
            "<h2>Table 2: ",
            '<th scope="col" class="number"><a href="mnist/index.html">mnist full *</a></th>',
            '<th scope="col" class="number"><a href="mnist/budget-laptop/index.html">mnist laptop *</a></th>',
            "* Not as the paper states:\nall of these: ",
            '<section id="claims">',
            '<table class="bodies">',
            'class="study" id="mnist"',
            '<section id="complete">',
        )
    ]
    assert places == sorted(places)
    assert page.count('<table class="bodies">') == 1
    assert page.count('<svg class="drawing"') == 2, "Figure 4 stands once"
    assert '<strong data-verdict="mixed">' not in page
    assert '<a href="#claim-mnist-planar-f-falls">F</a>' in page


def test_without_a_paper_the_page_begins_with_its_studies(tmp_path):
    page, _ = build(tmp_path, run_all(study(SMALL), "full"), study(SMALL + "paper: none\n", exhibits="[summary]"))
    assert 'class="opening"' not in page
    assert 'id="claims"' not in page
    assert page.index("<h1>") < page.index('class="study" id="small"')


def test_without_runs_the_verdict_says_so(tmp_path):
    page, reader = build(tmp_path, FakeRuns())
    assert "Of the paper&#39;s 18 claims, none has runs yet." in page
    assert 'class="bodies"' not in page
    assert reader.links == []
