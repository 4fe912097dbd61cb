"""What users write is checked as they check it: see accepted.py and refused.py beside this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker",
    [("mypy", "tests/typing"), ("pyright", "--pythonpath", sys.executable)],
    ids=lambda checker: checker[0],
)
def test_user_code_is_accepted_and_mistakes_are_refused(checker: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *checker], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
