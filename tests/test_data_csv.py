"""Reading csv: what is written is what is read, and each complaint names line and column."""

import csv
import gzip
import io
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.data import csv_file
from gpumlp.data.csv_column import MAX_TEXT, MISSING
from gpumlp.data.csv_file import read_csv
from gpumlp.data.frame import NUMBER, Text
from gpumlp.errors import DataError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """A few rows a block, so that every file here has several."""
    monkeypatch.setattr(csv_file, "BLOCK_CELLS", 8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my.csv"


def read(path, content, names=None, text=()):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path, "my.csv", names, text)


def error(path, content, names=None, text=()):
    with pytest.raises(DataError) as caught:
        read(path, content, names, text)
    message = str(caught.value)
    assert message.startswith("my.csv: ")
    assert len(message) < 400
    return message.removeprefix("my.csv: ")


def texts(column):
    return [column.values[code] if code >= 0 else None for code in column.codes]


def lines(*rows, head="a,b,c"):
    return "\n".join([head, *rows, ""])


# ------------------------------------------------------------------------------------- values


def test_columns_are_numbers_where_every_cell_is_one_and_otherwise_text(path):
    frame = read(path, lines("1, 2.5 ,red", "-3e2,.5,blue", "+4,7.,red"))
    assert list(frame.columns) == ["a", "b", "c"]
    assert frame.columns["a"].tolist() == [1, -300, 4]
    assert frame.columns["b"].tolist() == [2.5, 0.5, 7]
    assert frame.columns["a"].dtype == np.float64
    assert frame.columns["c"].values == ("red", "blue")
    assert texts(frame.columns["c"]) == ["red", "blue", "red"]
    assert len(frame) == 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_delimiter_line_ends_byte_order_mark_and_gzip_are_seen(path, delimiter, end, mark, pack):
    rows = [["größe", "b"], *([f"{i}", f"w{i % 3}"] for i in range(20))]
    content = end.join(map(delimiter.join, rows)).encode()
    frame = read(path, pack(mark + content))
    assert frame.columns["größe"].tolist() == list(range(20))
    assert texts(frame.columns["b"]) == [f"w{i % 3}" for i in range(20)]
    assert list(frame.source.lines) == list(range(2, 22))


def test_the_delimiter_is_the_commonest_outside_quotes(path):
    assert list(read(path, '"x,y,z";"1,5";b\n1;2;3\n').columns) == ["x,y,z", "1,5", "b"]
    assert list(read(path, "a;b (m, n);c\n1;2;3\n").columns) == ["a", "b (m, n)", "c"]


def test_named_columns_come_in_the_order_asked_for_and_others_are_not_looked_at(path):
    frame = read(path, lines("1,x,3", "2,5,6", "3,,inf"), ["a"])
    assert list(frame.columns) == ["a"]
    assert list(read(path, lines("1,2,3"), ["c", "a"]).columns) == ["c", "a"]


@pytest.mark.parametrize("cell", sorted(MISSING))
def test_a_missing_cell_is_nan_or_no_text(path, cell):
    frame = read(path, lines(*[f"{i},{i},x" for i in range(9)], f"7,{cell},{cell}", "8, 2,y"))
    assert np.flatnonzero(np.isnan(frame.columns["b"])).tolist() == [9]
    assert texts(frame.columns["c"])[8:] == ["x", None, "y"]


def test_text_after_blocks_without_any_value_is_text(path):
    frame = read(path, lines(*["1,,2"] * 9, "1,red,2", "3,,4"))
    assert texts(frame.columns["b"]) == [None] * 9 + ["red", None]


def test_numbers_after_blocks_without_any_value_are_numbers(path):
    column = read(path, lines(*["1,,2"] * 9, "1,5,2")).columns["b"]
    assert np.isnan(column[:9]).all()
    assert column[9] == 5


def test_a_column_without_any_value_is_nan(path):
    assert np.isnan(read(path, lines("1,,2", "1,NA,2")).columns["b"]).all()


def test_columns_named_as_text_keep_what_is_written(path):
    frame = read(path, lines("01,1.0,2", "1,nan,3", "x,1,4"), text=["a", "b"])
    assert texts(frame.columns["a"]) == ["01", "1", "x"]
    assert texts(frame.columns["b"]) == ["1.0", None, "1"]


@pytest.mark.parametrize("cell", ["1_000", "１２", "0x10", "1d5", "1 2", "True", "1j", "--1", "1e"])
def test_what_only_some_programs_call_a_number_is_text(path, cell):
    content = lines(*[f"1,{cell},3"] * 12)
    assert texts(read(path, content).columns["b"]) == [cell] * 12
    mixed = error(path, lines(*["1,2,3"] * 9, f"1,{cell},3"))
    assert mixed.startswith(f'line 11, column "b": "{cell}" among numbers')


def plain(alphabet):
    return st.text(st.sampled_from(alphabet), max_size=6)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
WORDS = plain("abü ,;\t\"'\n0.-#").map(str.strip)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(*[NUMBERS, WORDS] * width), min_size=1, max_size=20)
)


@settings(max_examples=300)
@given(TABLES, st.sampled_from(",;\t"), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writer_wrote_is_read_back(tmp_path_factory, table, delimiter, pack, end):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
    head = [f"{kind}{i}" for i in range(len(table[0]) // 2) for kind in "nt"]
    writer.writerows([head, *table])
    content = buffer.getvalue().encode()
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    frame = read(path, gzip.compress(content) if pack else content, text=head[1::2])
    assert list(frame.columns) == head
    for i, name in enumerate(head):
        expected = [row[i] for row in table]
        if i % 2:
            assert texts(frame.columns[name]) == [None if w in MISSING else w for w in expected]
        else:
            assert frame.columns[name].tolist() == [float(value) for value in expected]
    whole, starts = content.decode(), frame.source.lines
    assert [whole.splitlines(keepends=True)[0].rstrip()] == [delimiter.join(head)]
    assert starts[0] == 2
    assert (np.diff(starts) >= 1).all()


CELLS = st.text(st.sampled_from("01.9-+eE_ NanifxX１\x1c\xa0"), max_size=5)


@settings(max_examples=300)
@given(st.lists(CELLS, min_size=1, max_size=12), st.integers(1, 40))
def test_the_fast_way_reads_what_cell_by_cell_reads(tmp_path_factory, cells, block):
    """Quotes around a cell mean nothing, but the fast way does not take them."""
    path = tmp_path_factory.getbasetemp() / "ways.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_file, "BLOCK_CELLS", block)
        results = []
        for quote in ("", '"'):
            content = "".join(f"{quote}{cell}{quote},1\n" for cell in cells)
            try:
                found = read(path, "a,b\n" + content).columns["a"]
                results.append(texts(found) if isinstance(found, Text) else found.tolist())
            except DataError as problem:
                results.append(str(problem))
    assert repr(results[0]) == repr(results[1])


def test_every_cell_that_is_a_number_is_one_for_python_too():
    for cell in ("1", "-1.", ".5", "+1e-3", "1E5", "inf", "-Infinity"):
        assert NUMBER.fullmatch(cell)
        float(cell)
    for cell in ("", ".", "e5", "1e", "nan", "1_0", "１", "0x1", "1,5", "+-1"):
        assert not NUMBER.fullmatch(cell)


# ------------------------------------------------------------------------------ lines and columns


def test_lines_are_counted_through_blank_lines_and_newlines_in_quotes(path):
    content = 'a,"b\nc"\n1,x\n\n\r\n2,"y\n\nz"\n3,x\n\n4,y\n'
    frame = read(path, content)
    assert list(frame.columns) == ["a", "b\nc"]
    assert list(frame.source.lines) == [3, 6, 9, 11]


@pytest.mark.parametrize("before", ["", "\n", '9,"x\ny",9\n', "9,x,9\n" * 20])
@pytest.mark.parametrize(
    ("row", "where", "what"),
    [
        ("1,2", "", "2 cells, the header has 3 columns"),
        ("1,2,3,4", "", "4 cells, the header has 3 columns"),
        ("oh,x,3", ', column "a"', '"oh" among numbers'),
        ("1,x,inf", ', column "c"', '"inf" is not a finite number'),
        ("1,x,-1e999", ', column "c"', '"-1e999" is not a finite number'),
        ("1,x,3\0", "", "NUL character"),
        ('1,x,"3', "", 'a cell in quotes begins and ends with "'),
        ('1,"x"y,3', "", "expected after '\"'; a cell in quotes"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(path, before, row, where, what):
    content = lines("1,x,3", before + row, "2,y,4")
    message = error(path, content)
    line = 3 + before.count("\n")
    assert message.startswith(f"line {line}{where}"), message
    assert what in message


@pytest.mark.parametrize("before", [0, 3, 20, 5000])
def test_a_byte_that_is_no_utf8_is_named_with_its_line(path, before):
    content = lines(*["1,2,x"] * before).encode() + b"1,2,caf\xe9\n1,2,3\n"
    message = f"line {before + 2} is not UTF-8 text; save the file as UTF-8"
    assert error(path, content) == message
    assert error(path, gzip.compress(content)) == message


def test_the_rarer_of_numbers_and_text_is_the_odd_one(path):
    assert error(path, lines("1,x,3", "oh,y,3")).startswith(
        'line 3, column "a": "oh" among numbers'
    )
    content = lines("1,x,3", "1,2,3") + "1,y,3\n"
    message = error(path, content.replace("\n1,x", "\n1,x,3\n1,x"))
    assert message.startswith('line 4, column "b": "2" among text; correct it')
    assert 'train with data.categorical = ["b"]' in message


def test_a_number_in_a_later_block_among_text_is_named(path):
    message = error(path, lines(*["1,x,3"] * 9, "1,5,3"))
    assert message.startswith('line 11, column "b": "5" among text')


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "line 1 is empty; it must have the column names"),
        ("\n\na,b\n", "line 1 is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n\n\n", "has a header and no rows"),
        ("a,b,a\n1,2,3\n", 'line 1: columns 1 and 3 are both "a"'),
        ("a, a\n1,2\n", 'line 1: columns 1 and 2 are both "a"'),
        ("a,,c\n", "line 1: column 2 has no name"),
        ("a,b,\n", "line 1: column 3 has no name"),
        ("a|b\n1|2\n", "line 1: separate cells by commas, semicolons or tabs, not by |"),
        ('"a,b\n', "line 1: unexpected end of data"),
    ],
)
def test_a_file_without_a_good_header_or_rows_is_refused(path, content, what):
    assert error(path, content).startswith(what)


def test_a_column_that_is_not_there_is_answered_with_those_that_are(path):
    assert error(path, lines("1,2,3"), ["d"]) == 'no column "d"; it has a, b, c'
    found = error(path, "height,age\n1,2\n", ["hight"])
    assert found == 'no column "hight"; it has height, age; did you mean "height"?'


def test_a_decimal_comma_is_answered_with_a_point(path):
    message = error(path, "a;b\n1;2\n1;2,5\n")
    assert message == 'line 3, column "b": "2,5" has a decimal comma; write 2.5'
    assert texts(read(path, "a;b\n1;2,5\n", text=["b"]).columns["b"]) == ["2,5"]


def test_a_long_text_is_refused_and_shown_in_part(path):
    long = "x" * (MAX_TEXT + 1)
    message = error(path, lines(f"1,{long},3"))
    assert message.startswith('line 2, column "b": a text of 201 characters, the limit is 200')
    assert "data.features" in message
    assert texts(read(path, lines(f"1,{long[1:]},3")).columns["b"]) == [long[1:]]
    assert f'"{"x" * 37}..." among numbers' in error(path, lines("1,2,3", f"1,{long},3"))


def test_lines_and_files_without_end_are_refused(path, monkeypatch):
    monkeypatch.setattr(csv_file, "MAX_LINE", 100)
    assert error(path, lines("1,2,3", "1" * 100)).startswith("line 3 is too long")
    monkeypatch.setattr(csv_file, "MAX_SIZE", 60)
    assert error(path, lines(*["1,2,3"] * 20)).startswith("line 11 is too long, or the file")


def test_a_broken_gzip_file_is_refused(path):
    packed = gzip.compress(lines("1,2,3").encode())
    assert "cannot be read" in error(path, packed[:-9])
    assert "cannot be read" in error(path, packed + b"more")


def test_thirty_thousand_columns_are_read(path):
    names = [f"c{i}" for i in range(30_000)]
    content = ",".join(names) + "\n" + ",".join(["1"] * 30_000) + "\n"
    assert len(read(path, content).columns) == 30_000


@settings(max_examples=500)
@given(st.text(st.sampled_from('ab,;\t"\r\n 01.-+eE\0ü\ufeff_|nNaif'), max_size=50), st.booleans())
def test_any_text_is_read_or_refused(tmp_path_factory, content, head):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    try:
        frame = read(path, "a,b\n" * head + content)
    except DataError:
        return
    assert len(frame) == len(frame.source.lines) > 0


def test_a_column_without_any_value_takes_time_with_its_length_and_no_more(path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_CELLS", 16)
    began = process_time()
    assert np.isnan(read(path, "a,b\n" + ",1\n" * 200_000).columns["a"]).all()
    assert process_time() - began < 10
