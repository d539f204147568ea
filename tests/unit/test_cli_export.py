"""`gnomon export`: a pipe, or a whole file or none."""

from __future__ import annotations

import pytest

import gnomon
from gnomon.cli import main


@pytest.fixture
def store(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for place in range(3):
            engine.track("t", id=str(place))
    return tmp_path / "s.duckdb"


def test_standard_output_gets_the_bytes_and_nothing_else(store, capsysbinary):
    assert main(["export", "--store", str(store), "--fields", "id"]) == 0
    assert capsysbinary.readouterr() == (b'"id"\n"0"\n"1"\n"2"\n', b"")
    assert main(["export", "--store", str(store), "--fields", "id", "--format", "parquet"]) == 0
    assert capsysbinary.readouterr().out.endswith(b"PAR1")


@pytest.mark.parametrize(
    ("name", "begin"), [("x.xlsx", b"PK"), ("x.parquet", b"PAR1"), ("x.jsonl", b'{"id"'), ("x.unknown", b'"id"')]
)
def test_the_ending_of_the_file_names_the_format(store, tmp_path, capsys, name, begin):
    assert main(["export", "--store", str(store), "--fields", "id", "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert "3 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--date-range", "soon"], "bad-range"), (["--fields", "nope"], "unknown-name"),
        (["--filter", "["], "bad-argument"),
        (["--query", "{}"], "bad-query"), (["--output", "no/x.csv"], "export-unwritable"),
        (["--query", "x"], "bad-argument"), (["--project", "*"], "unknown-name"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_no_file(store, tmp_path, capsys, monkeypatch, options, code):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert main(["export", "--store", str(store), "--output", "x.csv", *options]) == 2
    assert f"({code})" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) - before <= {p for p in tmp_path.iterdir() if ".audit" in p.name}


def test_an_answer_a_filter_and_a_range(store, tmp_path, capsys):
    out = str(tmp_path / "x.csv")
    query = '{"metrics": ["events"], "dimensions": ["type"]}'
    assert main(["export", "--store", str(store), "--query", query, "--output", out]) == 0
    assert (tmp_path / "x.csv").read_text() == '"type","events"\n"t",3\n'
    asked = ["--filter", '["is","type",["other"]]', "--fields", "id", "--date-range", "2020-01-01,2021-01-01"]
    assert main(["export", "--store", str(store), *asked, "--output", out]) == 0
    assert (tmp_path / "x.csv").read_text() == '"id"\n'


def test_a_sampled_file_says_so(tmp_path, capsys):
    with gnomon.open(tmp_path / "w.duckdb") as engine:
        engine.track("t", weight=2)
    assert main(["export", "--store", str(tmp_path / "w.duckdb"), "--output", str(tmp_path / "x.csv")]) == 0
    assert "sum the weights" in capsys.readouterr().err


def test_a_project_that_the_store_never_had_is_refused_by_name(store, tmp_path, capsys):
    assert main(["export", "--store", str(store), "--project", "defalt"]) == 2
    assert "unknown project 'defalt' (unknown-name). Did you mean 'default'?" in capsys.readouterr().err
    with gnomon.open(tmp_path / "empty.duckdb"):
        pass
    assert main(["export", "--store", str(tmp_path / "empty.duckdb"), "--project", "any", "--format", "json"]) == 0
