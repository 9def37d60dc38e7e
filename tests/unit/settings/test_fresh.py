"""A secret that changes while the program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from authproxy.settings.fresh import FreshSecret
from authproxy.settings.schema import SecretRef
from tests.unit.sessions.test_live import Clock


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Within a second of a change the new secret is used; a file that vanishes leaves the old one in use."""
    file, clock = tmp_path / "secret", Clock()
    file.write_text("first\n")
    secret = FreshSecret(SecretRef(file=str(file)), clock=clock)  # type: ignore[arg-type]
    assert secret() == "first"
    file.write_text("the second\n")
    assert secret() == "first"
    clock.now += 1
    assert secret() == "the second"
    file.unlink()
    clock.now += 1
    assert secret() == "the second"


def test_a_replaced_file_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    """Kubernetes replaces secrets by renaming: another file at the same place counts as changed."""
    file, clock = tmp_path / "secret", Clock()
    file.write_text("aaaa")
    secret = FreshSecret(SecretRef(file=str(file)), clock=clock)  # type: ignore[arg-type]
    assert secret() == "aaaa"
    before = file.stat()
    other = tmp_path / "other"
    other.write_text("bbbb")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file)
    clock.now += 1
    assert secret() == "bbbb"


def test_a_secret_that_never_was_is_an_error(tmp_path: Path) -> None:
    """Without a first value there is nothing to go on with; the error names the file and not more."""
    missing = FreshSecret(SecretRef(file=str(tmp_path / "none")))  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="none"):
        missing()
    assert repr(missing) == "<FreshSecret not read yet>"
