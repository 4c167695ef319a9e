"""Authentication: reading the token of a request and comparing it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.web.auth import bearer_token, tokens_equal

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("user", ["", "anna", "ü"])
def test_basic_authentication_has_the_token_as_password(user: str) -> None:
    pair = base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
    assert bearer_token(f"Basic {pair}") == TOKEN


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_authentication_has_the_token(scheme: str) -> None:
    assert bearer_token(f"{scheme} {TOKEN}") == TOKEN


@given(st.text(max_size=60))
def test_any_other_header_has_no_valid_token(header: str) -> None:
    assert not tokens_equal(bearer_token(header), TOKEN)
    assert not tokens_equal(bearer_token(f"Basic {header}"), TOKEN)
    assert not tokens_equal(bearer_token(f"Digest {TOKEN}"), TOKEN)
