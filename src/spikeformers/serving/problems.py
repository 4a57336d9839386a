"""Errors in the shape of OpenAI's interface.

{"error": {"message": "...", "type": "invalid_request_error", "param": "n", "code": null}}
"""

from __future__ import annotations

from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "server_unavailable",
    504: "timeout_error",
}


class Problem(Exception):
    """A request that is answered with an error; ``status`` is the HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after = param, code, retry_after

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error")
        printable = self.message.encode("utf-8", "backslashreplace").decode("utf-8")
        parts = {"message": printable, "type": kind, "param": self.param, "code": self.code}
        return {"error": parts}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def invalid(param: str | None, message: str, code: str | None = None) -> Problem:
    """A request that is wrong: 400, naming the parameter."""
    return Problem(400, message, param=param, code=code)
