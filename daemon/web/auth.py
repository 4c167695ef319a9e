"""Authentication: the token in a request's Authorization header."""

import base64
import hmac


def bearer_token(authorization: str) -> str:
    """Return the token in an Authorization header; empty if there is none.

    `Bearer TOKEN`, or Basic with the token as password and any user: what a browser can ask for.
    """
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except ValueError:  # not base64, or not UTF-8
                return ""
        case _:
            return ""


def tokens_equal(shown_token: str, token: str) -> bool:
    """Return True if the tokens are equal, in constant time."""
    return hmac.compare_digest(shown_token.encode(), token.encode())
