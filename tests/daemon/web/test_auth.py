"""Authentication: how a token is shown and compared."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.web.auth import bearer_token, tokens_equal

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("user", ["", "anna", "ü"])
def test_a_browser_shows_it_as_a_password(user: str) -> None:
    pair = base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
    assert bearer_token(f"Basic {pair}") == TOKEN


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_program_shows_it_as_it_is(scheme: str) -> None:
    assert bearer_token(f"{scheme} {TOKEN}") == TOKEN


@given(st.text(max_size=60))
def test_no_other_header_shows_it(header: str) -> None:
    assert not tokens_equal(bearer_token(header), TOKEN)
    assert not tokens_equal(bearer_token(f"Basic {header}"), TOKEN)
    assert not tokens_equal(bearer_token(f"Digest {TOKEN}"), TOKEN)
