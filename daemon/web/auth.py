"""Authentication: the token in a request's Authorization header."""

import base64
import hmac


def bearer_token(authorization: str) -> str:
    """Return the token in an Authorization header; empty if there is none.

    Accepts `Bearer TOKEN`, and Basic with any user and the token as password. A browser can ask
    its user only for Basic.
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


def tokens_equal(presented: str, token: str) -> bool:
    """Return True if the tokens are equal; takes constant time."""
    return hmac.compare_digest(presented.encode(), token.encode())
