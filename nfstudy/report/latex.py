"""Tables as LaTeX that fits a page: without run ids and sentences, wrapped, or in parts, where they are wide.

They need the packages array, booktabs and longtable, and fit the narrowest text of the standard classes: article at
10 pt on letter paper.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nfstudy.report.tables import Entry, Table

TEXT_WIDTH = 345.0
"""Points of a line of article at 10 pt."""
LONGEST = 40
"""Characters of a text; a column with a longer one holds sentences, and is left out."""
FLOAT_LINES = 40
"""Lines of a table with its caption that surely fit on one page; one of more is broken over pages."""
_SEPARATION = 6.0
"""Points between columns, as `\\tabcolsep` of 3 pt has it."""
_CAPTION_CHARACTERS = 75
"""Of a line."""
_NO_NUMBER = "--"
"""In the place of a number that is not there, where its reason is a sentence."""
_BREAKS = "/-–= "
"""A line may be broken after these."""

_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
"""The letters that have commands; other capitals look like Latin ones."""


def _command(letter: str) -> str:
    """Return the name of a Greek letter's command: `beta`, `Gamma`."""
    name = unicodedata.name(letter).rpartition(" ")[2].replace("LAMDA", "LAMBDA").lower()
    return name.capitalize() if letter.isupper() else name


_SIGNS = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "−": "$-$",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "≈": r"$\approx$",
        "†": r"$\dagger$",
        "√": r"$\surd$",
        "\u0302": "",  # The hat of Pareto k.
        "×": r"$\times$",
        "‖": r"$\|$",
        **{letter: f"$\\{_command(letter)}$" for letter in _GREEK},
        "∂": r"$\partial$",
        "∞": r"$\infty$",
        "′": r"$'$",
        "⁻": r"$^-$",
        **{character: f"$^{digit}$" for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{character: f"$_{digit}$" for digit, character in enumerate("₀₁₂₃₄₅₆₇₈₉")},
        "…": r"\ldots{}",
        "·": r"$\cdot$",
        "–": "--",
    }
)


@dataclass(frozen=True)
class _Column:
    """One column of what is printed."""

    header: str
    texts: tuple[str, ...]
    numeric: bool

    @property
    def natural(self) -> float:
        """Points that it takes without a broken line; a header may be broken."""
        return max([_longest_word(self.header), *map(_points, self.texts)])

    @property
    def least(self) -> float:
        """Points that it takes at least; numbers are never broken."""
        if self.numeric:
            return self.natural
        return max(_longest_word(text) for text in (self.header, *self.texts))


def to_latex(table: Table) -> str:
    """Return a table in small print, text escaped: a float where it fits on a page, else a longtable.

    Columns of run ids and of sentences are left out, and the caption says so. What is wider than `TEXT_WIDTH` has its
    texts broken into lines, and where that does not do, its columns are put in several parts below each other, each
    with the names of the rows.
    """
    columns, left_out = _columns(table)
    caption = f"{table.caption} Not shown here: {', '.join(left_out)}." if left_out else table.caption
    again = f"{table.caption.split('. ')[0].rstrip('.')}, continued."
    parts = enumerate(_parts(columns))
    return "\n".join(_part(part, again if place else caption, table.id, place) for place, part in parts)


def latex_text(text: str, breakable: bool = False) -> str:
    """Escape text for LaTeX, with its mathematical signs as commands; `breakable` is for ids, which have no spaces."""
    escaped = text.translate(_SIGNS)
    return escaped.replace("/", "/\\allowbreak{}").replace("=", "=\\allowbreak{}") if breakable else escaped


def _columns(table: Table) -> tuple[list[_Column], list[str]]:
    """Return the columns that are printed, the rows' names first, and the headers of those that are left out."""
    kept, left_out = [_Column(table.columns[0], tuple(row.name for row in table.rows), numeric=False)], []
    for place in table.filled:
        header, numeric = table.columns[1 + place], table.is_numeric(place)
        texts = tuple(_text(row.entries[place]) for row in table.rows)
        if table.is_of_runs(place) or (not numeric and any(len(text) > LONGEST for text in texts)):
            left_out.append(header)
        else:
            kept.append(_Column(header, texts, numeric))
    return kept, left_out


def _text(entry: Entry) -> str:
    lacks = entry.quantity is not None and entry.value is None
    return _NO_NUMBER if lacks and len(entry.display) > LONGEST / 2 else entry.display


def _parts(columns: Sequence[_Column]) -> Iterator[tuple[list[_Column], list[float]]]:
    """Yield columns that fit on a line together, with their widths in points; the rows' names are in each part."""
    names, rest = columns[0], list(columns[1:])
    while True:
        part = [names]
        while rest and _taken([*part, rest[0]]) <= TEXT_WIDTH:
            part.append(rest.pop(0))
        if len(part) == 1 and rest:  # One that is too wide by itself stands alone beside the names.
            part.append(rest.pop(0))
        yield part, _widths(part)
        if not rest:
            return


def _taken(columns: Sequence[_Column]) -> float:
    return sum(column.least + _SEPARATION for column in columns)


def _widths(columns: Sequence[_Column]) -> list[float]:
    """Return each column's width: the natural one where there is room, else a share of the room beyond the least."""
    spare = TEXT_WIDTH - _taken(columns)
    wanted = sum(column.natural - column.least for column in columns)
    share = 1.0 if wanted <= spare else max(spare, 0.0) / wanted
    return [column.least + share * (column.natural - column.least) for column in columns]


def _part(part: tuple[list[_Column], list[float]], caption: str, id: str, place: int) -> str:
    columns, widths = part
    align = "".join(
        f">{{\\{'raggedleft' if column.numeric else 'raggedright'}\\arraybackslash}}p{{{width:.1f}pt}}"
        for column, width in zip(columns, widths, strict=True)
    )
    lines = [[latex_text(text, not column.numeric) for text in column.texts] for column in columns]
    head = " & ".join(latex_text(column.header, breakable=True) for column in columns) + " \\\\\n\\midrule\n"
    body = "".join(" & ".join(cells) + " \\\\\n" for cells in zip(*lines, strict=True))
    label = f"\\label{{tab:{id}{f'-{place + 1}' if place else ''}}}"
    told = f"\\caption{{{latex_text(caption)}}}{label}"
    height = len(caption) / _CAPTION_CHARACTERS + sum(
        max(1 + int(_points(column.texts[row]) / (width + 0.1)) for column, width in zip(columns, widths, strict=True))
        for row in range(len(columns[0].texts))
    )
    small = "\\footnotesize\n\\setlength{\\tabcolsep}{3pt}\n"
    if height <= FLOAT_LINES:
        return (
            f"\\begin{{table}}[ht]\n{told}\n\\vspace{{4pt}}\n\\centering\n{small}"
            f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head}{body}"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )
    return (
        f"\\begingroup\n{small}\\begin{{longtable}}{{{align}}}\n{told} \\\\\n\\toprule\n{head}\\endfirsthead\n"
        f"\\toprule\n{head}\\endhead\n\\bottomrule\n\\endlastfoot\n{body}\\end{{longtable}}\n\\endgroup\n"
    )


def _points(text: str) -> float:
    """Return the width of a text in Computer Modern at 8 pt, rather too large than too small."""
    wide, narrow = "mwMW%−±≤≥+=–×", "ijl.,:;|'()[] "
    return sum(7.2 if c in wide or c.isupper() else 2.9 if c in narrow else 4.5 for c in text)


def _longest_word(text: str) -> float:
    for sign in _BREAKS:
        text = text.replace(sign, f"{sign}\n")
    return max((_points(word) for word in text.split("\n")), default=0.0)
