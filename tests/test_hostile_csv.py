"""Hostile and damaged csv files, through the command line: the line and the column are named."""

import gzip
import io

import numpy as np
import pytest
from hostile import case, refused, trains

ROWS = [f"{i},{i * i % 7},{'yes' if i % 2 else 'no'}" for i in range(40)]
HEAD = "a,b,label"


def csv(*rows, head=HEAD, end="\n"):
    """A csv file of those rows, by default of 40 good ones."""
    return end.join([head, *(rows or ROWS), ""]).encode()


def wrong(row, at=2):
    """A csv file whose row in that line (the header is line 1) is another one."""
    rows = list(ROWS)
    rows[at - 2] = row
    return csv(*rows)


def zipped():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


W = 'sample_weight = "b"'
CSV = [
    case("no such file", {}),
    case("is empty|column names", {"x.csv": b""}, name="empty file"),
    case("is empty", {"x.csv": b"\n\n"}, name="empty lines only"),
    case("no rows", {"x.csv": csv(head=HEAD, end="\n")[:10]}, name="header only"),
    case("line 5|2 cells|3 columns", {"x.csv": wrong("1,2", 5)}, name="short row"),
    case("line 5|4 cells|3 columns", {"x.csv": wrong("1,2,3,yes", 5)},
         name="long row"),
    case('line 1|columns 1 and 2 are both "a"', {"x.csv": csv(head="a,a,label")},
         name="duplicate header"),
    case("line 1|column 2 has no name", {"x.csv": csv(head="a,,label")},
         name="nameless column"),
    case("line|not UTF-8 text", {"x.csv": wrong("1,2,yes", 3).replace(b"2,yes", b"2,y\xe9s")}),
    case("not UTF-8 text", {"x.csv": csv().decode().encode("utf-16")},
         name="UTF-16"),
    case("line 4|NUL character", {"x.csv": wrong("1,\0,yes", 4)}),
    case('line 6, column "b"|"much" among numbers|data.categorical',
         {"x.csv": wrong("1,much,yes", 6)}, name="text among numbers"),
    case('line 6, column "b": the cell has no value|data.missing', {"x.csv": wrong("1,nan,yes", 6)},
         name="nan"),
    case('line 6, column "b": "-inf" is not a finite number', {"x.csv": wrong("1,-inf,yes", 6)},
         name="infinity"),
    case('line 6, column "b": "1e999" is not a finite number', {"x.csv": wrong("1,1e999,yes", 6)},
         name="overflow"),
    case('line 6, column "b": the cell has no value|data.missing', {"x.csv": wrong("1,,yes", 6)},
         name="missing value"),
    case('line 6, column "label": the target has no value', {"x.csv": wrong("1,2,", 6)},
         name="missing target"),
    case('"label"', {"x.csv": csv(*[f"{i},1," for i in range(9)])}, name="no target at all"),
    case('no column "label"|did you mean "labels"', {"x.csv": csv(head="a,b,labels")}),
    case('no column "c"', {"x.csv": csv()}, 'features = ["a", "c"]'),
    case("same label", {"x.csv": csv(*[f"{i},1,yes" for i in range(9)])},
         name="one class"),
    case("line|unexpected end of data", {"x.csv": wrong('1,2,"yes', 3)},
         name="open quote"),
    case("line 3|field larger than", {"x.csv": wrong(f"1,{'9' * 2**21},yes", 3)},
         name="huge field"),
    case('column "a" has 5000 different texts|data.features',
         {"x.csv": csv(*[f"n{i},1,{i % 2}" for i in range(5000)])}, name="category explosion"),
    case("line 1|not UTF-8 text", {"x.csv": zipped()}, name="really npz"),
    case('line 3, column "b"|-1.0', {"x.csv": wrong("1,-1,yes", 3)}, W, name="negative weight"),
    case('line 3, column "b": the weight has no value', {"x.csv": wrong("1,nan,yes", 3)}, W,
         name="nan weight"),
    case("0 in every row", {"x.csv": csv(*[f"{i},0,{i % 2}" for i in range(9)])}, W,
         name="no weight"),
    case('line 3, column "b"|"much"', {"x.csv": wrong("1,much,yes", 3)}, W, name="text as weight"),
    case('test.csv|"maybe"|line 3', {"x.csv": csv(), "test.csv": wrong("1,2,maybe", 3)},
         'test.path = "test.csv"', name="unknown label"),
    case('test.csv|"b"', {"x.csv": csv(), "test.csv": csv("1,yes", "2,no", head="a,label")},
         'test.path = "test.csv"', name="column missing from the test file"),
    case('test.csv|"red"|line 2', {"x.csv": csv("blue,1,0", "green,2,1", "blue,3,1"),
         "test.csv": csv("red,1,0")}, 'test.path = "test.csv"', name="unknown category"),
]  # fmt: skip
CSV_GZ = [
    case("is empty", {"x.csv.gz": gzip.compress(b"")}, name="empty content"),
    case("cannot be read|ended before", {"x.csv.gz": gzip.compress(csv())[:-20]}, name="truncated"),
    case("cannot be read", {"x.csv.gz": gzip.compress(csv()) + b"more"}, name="trailing bytes"),
    case("line 1 is too long", {"x.csv.gz": gzip.compress(bytes(2**26))}, name="bomb of zeros"),
    case(
        "line 42 is too long",
        {"x.csv.gz": gzip.compress(csv() + b"1" * 2**26)},
        name="bomb in a field",
    ),
    case(
        'line 6, column "b": the cell has no value',
        {"x.csv.gz": gzip.compress(wrong("1,nan,yes", 6))},
        name="nan",
    ),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "files", "settings"), CSV)
def test_a_hostile_csv_file_is_refused(here, capsys, words, files, settings):
    refused(capsys, "x.csv", words, files, settings)


@pytest.mark.parametrize(("words", "files", "settings"), CSV_GZ)
def test_a_hostile_zipped_csv_file_is_refused(here, capsys, words, files, settings):
    refused(capsys, "x.csv.gz", words, files, settings)


# ------------------------------------------------------------------------------- what is accepted


GOOD = {
    "plain": csv(),
    "byte order mark": b"\xef\xbb\xbf" + csv(),
    "CRLF": csv(end="\r\n"),
    "no newline at the end": csv()[:-1],
    "empty lines at the end": csv() + b"\n\n",
    "quotes": csv().replace(b"yes", b'"yes"'),
    "comma in a label": csv().replace(b"yes", b'"y,es"'),
    "newline in a label": csv().replace(b"yes", b'"y\nes"'),
    "other letters": csv(head="größe,温度,label").replace(b"yes", "да".encode()),
    "spelled numbers": wrong("1e-3,+2.5E1,yes"),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("name", ["x.csv", "größe 数.CSV", "x.csv.gz"])
def test_a_good_csv_file_is_accepted(here, capsys, content, name):
    (here / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    trains(capsys, name)


def test_a_bomb_of_good_rows_is_refused(here, capsys, monkeypatch):
    monkeypatch.setattr("gpumlp.data.reading.FREE_SIZE", 2**20)
    monkeypatch.setattr("gpumlp.data.csv_file.FREE_SIZE", 2**20)
    zero = f"0.{'0' * 40}"
    rows = [f"{zero},{zero},{i % 2}" for i in range(7000)]
    bomb, good = gzip.compress(csv(*rows * 2)), gzip.compress(csv(*rows))
    refused(capsys, "x.csv.gz", ["more than 100 times its size"], {"x.csv.gz": bomb}, ())
    (here / "x.csv.gz").write_bytes(good)  # as much, and below what is free
    trains(capsys, "x.csv.gz")


def test_ten_thousand_columns_are_accepted(here, capsys):
    head = ",".join([*(f"c{i}" for i in range(10_000)), "label"])
    rows = [",".join([*map(str, range(i, 10_000 + i)), f"{i % 2}"]) for i in range(6)]
    (here / "x.csv").write_bytes(csv(*rows, head=head))
    trains(capsys, "x.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_name(here, capsys):
    (here / "x.csv").write_bytes(b"\xef\xbb\xbf" + csv())
    trains(capsys, "x.csv", 'features = ["a"]')
