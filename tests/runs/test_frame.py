"""The frame of runs."""

import warnings

from nfstudy.runs.frame import RUN_COLUMNS, make_frame


def test_a_frame_of_many_settings_takes_further_columns_without_a_warning():
    empty = {"str": "", "int": 0, "float": 0.0, "bool": False}
    row = {name: empty[kind] for name, kind in RUN_COLUMNS.items()}
    frame = make_frame([{**row, "params": {f"a.s{n}": n for n in range(90)}, "metrics": {}}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Of pandas, which counts pieces; it would stand among what commands print.
        assert frame.assign(one=1).assign(two=2)["two"].tolist() == [2]
