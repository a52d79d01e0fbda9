"""The fuzzer by coverage cannot rot: its inputs to begin with are what its readers take."""

import json
import random
import sys
import zipfile
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from fuzz_coverage import (
    ABOUT,
    CUT,
    MODEL,
    READERS,
    TENSORS,
    Finding,
    inner,
    main,
    mutate_model,
    npz_bytes,
    report,
    seeds,
    tensor,
    try_checkpoint,
    try_config,
    try_model,
    try_table,
)
from test_fuzz_files import LABEL

from gpumlp.errors import ConfigError, GpumlpError


@pytest.mark.parametrize("reader", READERS)
def test_the_first_inputs_are_read(tmp_path, reader):
    np.save(tmp_path / "y.npy", LABEL)
    if reader == "model":
        pytest.importorskip("gpumlp.tensor_file")
    if reader == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")
    taken = 0
    for content in seeds(reader):
        if reader == "model":
            try_model(content, tmp_path)
        elif reader == "checkpoint":
            try_checkpoint(content, tmp_path)
        elif reader == "toml":
            try_config(reader, content, tmp_path)
        elif reader == "set":  # lines of any section
            with suppress(ConfigError):
                try_config(reader, content, tmp_path)
                taken += 1
        else:
            try_table(reader, content, tmp_path)
    assert reader != "set" or taken >= 20  # those of the optimizer


def test_what_is_no_input_is_refused_as_the_reader_promises(tmp_path):
    for content in (b"\xff", b"optimizer.lr=fast", b"=", b"optimizer.lr.a.b.c=1"):
        with pytest.raises(GpumlpError):
            try_config("set", content, tmp_path)


def test_an_npz_is_made_anew_around_its_array(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz_bytes(b"xanything", b"", b"label"))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.testzip() is None
        assert archive.read("x.npy") == b"anything"


@pytest.mark.parametrize("line", ["", "a", "a b c d", "w float32 2,3 nan", "w int64 9999 1e400"])
def test_any_line_is_a_tensor(line):
    name, array = tensor(line)
    assert name == line.split(" ")[0]
    assert array.size < 10**7


def test_mutations_change_one_part_of_a_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", SimpleNamespace(Mutate=lambda content, size: b"?"))
    content = CUT.join(part.encode() for part in (MODEL, json.dumps(ABOUT), TENSORS))
    kinds = {
        tuple(a != b for a, b in zip(content.split(CUT), changed.split(CUT), strict=True))
        for seed in random.Random(0).sample(range(10**6), 200)
        if (changed := mutate_model(content, 10**6, seed)) != b"?"
    }
    assert {(False, True, False), (False, False, True)} <= kinds
    assert any(kind[0] for kind in kinds)
    places = [key for _, key in inner({"a": [1, {"b": 2}]})]
    assert places == ["a", 0, 1, "b"]


def test_a_finding_is_kept_once_for_each_reason(tmp_path):
    (tmp_path / "findings").mkdir()
    for text in ("one", "one", "two"):
        report(tmp_path, b"x", text, Finding(text))
    texts = [path.read_text() for path in sorted((tmp_path / "findings").glob("*.txt"))]
    assert sorted(text.split()[-1] for text in texts) == ["one", "two"]


def test_without_atheris_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("fuzz_coverage.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["fuzz_coverage.py", "csv"])
    with pytest.raises(SystemExit):
        main()
    assert "pip install atheris" in capsys.readouterr().err
