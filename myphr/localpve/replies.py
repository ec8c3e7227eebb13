"""What a call can answer besides plain data: errors with the reason phrases of a real node, and raw replies.

Raised by every part of localpve, turned into HTTP by `api`. The text of an error is part of the API: clients match on
it.
"""

from typing import Any


class ApiError(Exception):
    """An answer other than 200. `message` goes into the reason phrase (first line) and, with a newline, into the
    body."""

    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None, *, body: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors
        self.body = body  # False: only the reason phrase, no body at all (what the authentication layer does)


class ParameterErrors(ApiError):
    """400 with one text per wrong parameter."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(400, "Parameter verification failed.", errors)


def failure(message: str) -> ApiError:
    """Most domain failures are a 500 with the text as reason."""
    return ApiError(500, message)


def forbidden(detail: str = "") -> ApiError:
    """403; `detail` is "path, privilege" or nothing."""
    return ApiError(403, f"Permission check failed ({detail})" if detail else "Permission check failed")


class TaskFailed(Exception):
    """Ends a task with this text as its exit status."""


class RawReply:
    """A reply that is not JSON: its bytes and content type."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self.content = content
        self.content_type = content_type


class ListReply:
    """A list with a `total` beside it (task lists and logs), and for one call an object in its place."""

    def __init__(self, data: Any, total: int) -> None:
        self.data = data
        self.total = total
