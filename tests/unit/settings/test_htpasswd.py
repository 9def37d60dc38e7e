"""The files of Basic sign-in: what their lines mean, and which are refused."""

from __future__ import annotations

import pytest

from authproxy.settings import htpasswd

HASH = "$2y$05$" + "a" * 53


def test_users_and_their_hashes() -> None:
    """Comments, empty lines and line ends of any system say nothing; all three letters of bcrypt are taken."""
    text = f"# people\r\nann:{HASH}\r\n\n  bob:$2a$10${'b' * 53}  \nélise:$2b$12${'.' * 53}"
    assert htpasswd.users(text) == {"ann": HASH, "bob": "$2a$10$" + "b" * 53, "élise": "$2b$12$" + "." * 53}
    assert htpasswd.cost(HASH) == 5


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ann", "must be name:hash"),
        (f":{HASH}", "must be name:hash"),
        (f"a\tb:{HASH}", "must be name:hash"),
        ("ann:$apr1$salt$hunter2hunter2", "not bcrypt"),
        ("ann:{SHA}hunter2", "not bcrypt"),
        ("ann:hunter2", "not bcrypt"),
        ("ann:", "not bcrypt"),
        (f"ann:$2x$05${'a' * 53}", "not bcrypt"),
        (f"ann:{HASH}:more", "not bcrypt"),
        (f"ann:{HASH[:-1]}", "not bcrypt"),
        (f"ann:$2y$03${'a' * 53}", "cost"),
        (f"ann:$2y$17${'a' * 53}", "cost"),
        (f"bob:{HASH}", "twice"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, fault: str) -> None:
    """The message says which line and what to do, and holds nothing of a password."""
    with pytest.raises(ValueError) as caught:
        htpasswd.users(f"bob:{HASH}\n# more\n{line}\n")
    assert str(caught.value).startswith("line 3: ")
    assert fault in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "aaaa" not in str(caught.value)


def test_a_file_without_users_is_refused() -> None:
    """An emptied file is a mistake, not a decision."""
    with pytest.raises(ValueError):
        htpasswd.users("# nobody\n")


def test_groups_of_users() -> None:
    """A user is in every group that names them, once, in the order of the file."""
    text = "# groups\nstaff: ann bob\n\nops:\tann  ann\nempty:\nstaff: ann\n"
    assert htpasswd.groups(text) == {"ann": ("staff", "ops"), "bob": ("staff",)}


@pytest.mark.parametrize("line", ["staff ann", ": ann", "staff: a\x00b"])
def test_a_bad_group_is_named_by_its_number(line: str) -> None:
    """The same for groups."""
    with pytest.raises(ValueError, match=r"^line 2: "):
        htpasswd.groups(f"ok: ann\n{line}")
