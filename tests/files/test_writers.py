"""Frames to files: what stays of the file that is replaced, and whose an error is."""

from __future__ import annotations

import stat
from pathlib import Path

import pandas as pd
import pytest

import citykit
from citykit.files import FileFormat, writing

FRAME = pd.DataFrame({"name": ["a", "b"]})


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, format_: FileFormat) -> None:
    path = tmp_path / "a"
    path.touch()
    for mode in (0o600, 0o664):
        path.chmod(mode)
        with writing(path, format_) as write:
            write(FRAME)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert citykit.read_file(path)["name"].tolist() == ["a", "b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_an_error_between_two_writes_is_not_one_of_the_file(tmp_path: Path, format_: FileFormat) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(TimeoutError, match="lost"), writing(path, format_) as write:  # noqa: PT012
        write(FRAME)
        raise TimeoutError("lost")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("format_", "rows"), [("csv", 1), ("csv", 100_000), ("json", 1), ("parquet", 1)])
def test_a_full_disk_is_named_with_the_file(format_: FileFormat, rows: int) -> None:
    with (
        pytest.raises(citykit.CitykitError, match=r"^/dev/full cannot be written: No space left on device$"),
        writing(Path("/dev/full"), format_) as write,
    ):
        write(pd.DataFrame({"name": ["a"] * rows}))
