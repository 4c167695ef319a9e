"""Request bodies: a misspelt key is an error, not a wish that is lost."""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """JSON object without unknown keys."""

    model_config = ConfigDict(extra="forbid")
