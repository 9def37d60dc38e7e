"""Secrets and other values: where they come from, and that they are never shown."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from authproxy.settings.schema import Duration, SecretRef
from authproxy.settings.values import MAX_SECRET


def ref(base: Path = Path(), **source: object) -> SecretRef:
    """A reference as the file would make it."""
    return SecretRef.model_validate(source, context={"base": base})


def test_a_file_loses_its_last_line_breaks_only(tmp_path: Path) -> None:
    """What editors add is dropped; spaces and inner breaks belong to the secret."""
    (tmp_path / "s").write_bytes(b" a\nb \r\n\n")
    assert ref(tmp_path, file="s").reveal() == " a\nb "


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_every_source_loses_its_last_line_breaks(tmp_path: Path, end: str) -> None:
    """A line break at the end of a variable or a value is no part of the secret, as in a file."""
    (tmp_path / "s").write_bytes(f" a\nb {end}".encode())
    revealed = [
        ref(tmp_path, file="s").reveal(),
        ref(env="A").reveal({"A": f" a\nb {end}"}),
        ref(env=["A", "B"]).reveal({"A": end, "B": f" a\nb {end}"}),
        ref(value=f" a\nb {end}").reveal(),
    ]
    assert set(revealed) == {" a\nb "}
    for empty in (ref(env="A"), ref(value=end)):
        with pytest.raises(LookupError, match="empty"):
            empty.reveal({"A": end})


def test_a_variable_that_is_no_text_is_named() -> None:
    """Bytes that are not UTF-8 cannot be sent; the message holds nothing of them."""
    with pytest.raises(LookupError, match="the environment variable A is not UTF-8 text"):
        ref(env="A").reveal({"A": "hunter2\udcff"})


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """Rotation needs no restart."""
    (tmp_path / "s").write_text("one")
    secret = ref(tmp_path, file="s")
    assert secret.reveal() == "one"
    (tmp_path / "s").write_text("two")
    assert secret.reveal() == "two"


def test_an_endless_file_ends() -> None:
    """A device named by mistake does not fill the memory."""
    assert len(ref(file="/dev/zero").reveal()) <= MAX_SECRET


def test_the_first_variable_that_is_set_counts() -> None:
    """An empty variable is not set."""
    secret = ref(env=["A", "B", "C"])
    assert secret.reveal({"A": "", "B": "b", "C": "c"}) == "b"
    with pytest.raises(LookupError, match="none of the environment variables A, B, C is set"):
        secret.reveal({})


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, variables of the process are read."""
    monkeypatch.setenv("A_SECRET_OF_THE_TEST", "x")
    assert ref(env="A_SECRET_OF_THE_TEST").reveal() == "x"


@pytest.mark.parametrize("source", [{}, {"env": []}, {"env": ""}, {"env": "A", "value": "b"}, {"file": ""}])
def test_a_secret_has_one_source(source: dict[str, Any]) -> None:
    """None, two, or an empty one is refused."""
    with pytest.raises(ValidationError):
        ref(**source)


def test_a_value_is_not_shown() -> None:
    """Neither ``repr`` nor ``str`` tells it."""
    assert "hunter2" not in repr(ref(value="hunter2")) + str(ref(value="hunter2"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("90s", 90), ("15m", 900), ("8h", 28800), ("7d", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    """Every unit of the contract."""
    assert TypeAdapter(Duration).validate_python(text) == pytest.approx(seconds)


def test_a_duration_ends_before_dates_do() -> None:
    """A hundred years are enough; more could not be written as a date."""
    assert TypeAdapter(Duration).validate_python("36500d")
    with pytest.raises(ValidationError, match="must be at most 36500d"):
        TypeAdapter(Duration).validate_python("36501d")


@given(st.text() | st.integers() | st.floats() | st.none())
def test_no_other_duration_passes_or_breaks(value: object) -> None:
    """Whatever stands there is a positive time or a clean refusal."""
    with contextlib.suppress(ValidationError):
        assert TypeAdapter(Duration).validate_python(value) > 0
