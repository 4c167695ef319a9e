"""Upload form: each of its fields at most once, and no others.

FastAPI takes the last of several values, and drops what it does not know. A second picture would be
lost without a word.
"""

from collections import Counter

from fastapi import HTTPException, Request

from rules.characters import quoted

_FIELDS = ("picture", "path", "inbox", "make")


async def check_fields(request: Request) -> None:
    """Raise HTTPException 422 for an unknown form field, or for one that comes twice."""
    counts = Counter(name for name, _ in (await request.form()).multi_items())
    for name, count in counts.items():
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise HTTPException(422, f"there is no form field {quoted(name)}; known: {known}")
        if count > 1:
            raise HTTPException(
                422, f"the form has {count} fields {quoted(name)}; send one picture a request"
            )
