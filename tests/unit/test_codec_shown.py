"""What error messages repeat of a message: enough to find the fault, and nothing that may be a secret."""

from __future__ import annotations

import pytest

from schemas.invalid import SHOWN_CHARACTERS, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("bag", "'bag'"),
        (7, "7"),
        (None, "None"),
        (b"\xff", "b'\\xff'"),
        ("é\n", "'\\xe9\\n'"),
        (["Bearer c4n4ry"], "an array"),
        ({"token": "c4n4ry"}, "an object"),
        ("https://host/1.jpg?X-Amz-Signature=c4n4ry", "'https://host/1.jpg?[...]'"),
        ("https://user:c4n4ry@host/1.jpg", "'https://[...]host/1.jpg'"),
        ("https://host/1.jpg#c4n4ry", "'https://host/1.jpg#[...]'"),
        ("Authorization: Bearer c4n4ry", "'Authorization: Bearer [...]'"),
        (b"authorization: basic c4n4ry", "b'authorization: basic [...]'"),
        ("x" * 500, "'" + "x" * (SHOWN_CHARACTERS - 4) + "..."),
    ],
)
def test_a_value_is_short_and_says_no_secret(value: object, text: str) -> None:
    assert shown(value) == text
    assert len(shown(value)) <= SHOWN_CHARACTERS


def test_a_secret_that_is_cut_is_no_secret_told() -> None:
    assert "c4n4ry" not in shown("https://" + "c4n4ry" * 100 + "@host")
