"""Tables as LaTeX: what is left out, what is broken into lines or parts, and that all of it fits a page in print."""

import re
import shutil
import subprocess

import pytest
from support.fake_runs import run_all, study

from nfstudy.report.build import make_report
from nfstudy.report.latex import TEXT_WIDTH, latex_text, to_latex
from nfstudy.report.statistics.estimates import NLL, estimate, gather_results
from nfstudy.report.tables import Entry, Row, Table

PREAMBLE = "\\documentclass{article}\n\\usepackage{array,booktabs,longtable}\n\\begin{document}\n"
MNIST = """
study: mnist
title: All of the ledger's cells
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 10, 20, 40, 80]}
repetitions: 3
budgets: {full: {}}
exhibits: [table-2, figure-4, summary, effects, cost, flow-length]
"""


def number(value, *ids):
    return Entry(quantity=NLL, estimate=estimate(dict.fromkeys(ids, value)), run_ids=ids)


def ids(*run_ids):
    return Entry(text=" ".join(run_ids), run_ids=run_ids)


def columns_of(text):
    """Return the widths in points of each tabular or longtable."""
    found = re.findall(r"\\begin\{(?:tabular|longtable)\}\{(.*)\}", text)
    return [[float(width) for width in re.findall(r"p\{([\d.]+)pt\}", spec)] for spec in found]


def test_rules_and_escapes():
    rows = (Row("NF_1 | 50 %", (number(86.0, "a", "b"),)), Row("<b>", (Entry(quantity=NLL, note="not run"),)))
    text = to_latex(Table("table-2", "A_caption ±", ("row", "ours"), rows))
    assert r"NF\_1 \textbar{} 50 \% & $\leq$ 86.00 $\pm$ 0.00 (2) \\" in text
    assert r"\textless{}b\textgreater{} & not run \\" in text
    assert r"\caption{A\_caption $\pm$}\label{tab:table-2}" in text
    assert [rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{table}")] == [True] * 4


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b", r"a\_b"),
        ("\\", r"\textbackslash{}"),
        ("{x}^~", r"\{x\}\textasciicircum{}\textasciitilde{}"),
        ("−1 ≤ β", r"$-$1 $\leq$ $\beta$"),
        ("[x](y) # 1", r"[x](y) \# 1"),
        ("φ, ε, λ, ΣΓ, ∂", r"$\phi$, $\epsilon$, $\lambda$, $\Sigma$$\Gamma$, $\partial$"),
    ],
    ids=["underscore", "backslash", "braces", "signs", "brackets", "letters"],
)
def test_latex_escapes(text, latex):
    assert latex_text(text) == latex


def test_run_ids_and_sentences_are_left_out_and_the_caption_says_so():
    sentence = "quoted from somebody else, and of another model than ours"
    row = Row("a", (number(86.0, "r1"), Entry(text=sentence), ids("r1"), Entry(text="yes")))
    text = to_latex(Table("t", "Numbers.", ("row", "ours", "note", "runs", "default"), (row,)))
    assert r"\caption{Numbers. Not shown here: note, runs.}" in text
    assert (sentence in text, "r1" in text, "yes" in text) == (False, False, True)


def test_the_reason_of_a_missing_number_is_shown_where_it_is_short():
    rows = (Row("a", (Entry(quantity=NLL, note="not run"),)), Row("b", (Entry(quantity=NLL, note="x" * 30),)))
    text = to_latex(Table("t", "", ("row", "ours"), rows))
    assert ("a & not run" in text, "b & --" in text) == (True, True)


def test_what_is_too_wide_for_a_line_is_put_in_parts_with_the_names_of_the_rows():
    columns = ("row", *(f"quantity {place}" for place in range(12)))
    text = to_latex(Table("t", "Wide. Twelve of them.", columns, (Row("name", (number(12345.0, "r"),) * 12),)))
    widths = columns_of(text)
    assert len(widths) > 1
    assert sum(len(part) - 1 for part in widths) == 12
    assert text.count("name & ") == len(widths)
    assert max(sum(part) + 6 * len(part) for part in widths) <= TEXT_WIDTH
    assert "\\caption{Wide, continued.}\\label{tab:t-2}" in text


def test_what_is_too_long_for_a_page_is_broken_over_pages():
    rows = tuple(Row(f"row {place}", (number(1.0, "r"),)) for place in range(60))
    text = to_latex(Table("t", "Long.", ("row", "ours"), rows))
    assert (r"\begin{longtable}" in text, r"\endhead" in text, r"\begin{table}" in text) == (True, True, False)


@pytest.fixture(scope="module")
def pdflatex():
    """Return the program that compiles, or skip."""
    if not (found := shutil.which("pdflatex")):
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-recommended")
    style = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False)
    if style.returncode:
        pytest.skip("LaTeX has no booktabs: apt-get install texlive-latex-recommended")
    return found


def log_of(program, text, folder):
    """Compile a document twice, as a longtable's widths need, and return its log."""
    (folder / "all.tex").write_text(f"{PREAMBLE}{text}\n\\end{{document}}\n", encoding="utf-8")
    for _ in range(2):
        subprocess.run([program, "-interaction=nonstopmode", "all.tex"], cwd=folder, capture_output=True, check=False)
    return (folder / "all.log").read_text(encoding="latin-1")


def test_every_table_of_a_report_fits_its_page(pdflatex, tmp_path):
    spec = study(MNIST)
    files = make_report(gather_results(spec.under(), run_all(spec, "full"))).files
    tables = [content.decode() for name, content in files.items() if name.endswith(".tex")]
    assert len(tables) == 6
    log = log_of(pdflatex, "\\clearpage\n".join(tables), tmp_path)
    assert "Output written on all.pdf" in log
    assert re.findall(r"^!.*|^Overfull.*|.*Float too large.*|.*undefined.*", log, re.MULTILINE) == []


def test_the_check_of_the_page_can_fail(pdflatex, tmp_path):
    wide = "\\begin{tabular}{l}\\rule{20cm}{1pt}\\end{tabular}"
    assert "Overfull" in log_of(pdflatex, wide, tmp_path)
