"""Kernel sources: found, pasted together, and their parameters read."""

import pytest

from gpumlp.backend import kernel_sources
from gpumlp.backend.kernel_sources import (
    declared_kernels,
    kernel_folder,
    kernel_source,
    parse_parameters,
)


def sources():
    return sorted(path.name for path in kernel_folder().glob("*.cu"))


@pytest.mark.parametrize("name", sources())
def test_a_source_has_its_headers_pasted_in_once(name):
    text = kernel_source(name)
    portable = (kernel_folder() / "portable.h").read_text(encoding="utf-8")
    assert "#pragma once" not in text
    assert '#include "' not in text
    assert text.count("SCALAR float exp_(float x)") == portable.count("SCALAR float exp_(float x)")


def test_the_kernels_of_all_sources_are_found_by_name():
    text = "\n".join((kernel_folder() / name).read_text(encoding="utf-8") for name in sources())
    assert len(declared_kernels()) == text.count("\nKERNEL(")
    assert declared_kernels()["sgd_step"] == {
        "w": "float*",
        "copy": "operand*",
        "g": "float*",
        "lr": "float*",
        "skip": "float*",
        "format": "int",
        "n": "size_t",
    }


def test_parameters_over_several_lines_are_read():
    text = "uint8* row,\n       const int64* clock,  size_t bytes"
    assert parse_parameters(text) == {"row": "uint8*", "clock": "int64*", "bytes": "size_t"}


def test_missing_sources_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_sources, "FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match=r"a or .*b"):
        kernel_folder()
