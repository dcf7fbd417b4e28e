"""What can be wrong with a request, as RFC 9457 problems: each says what to do."""

from __future__ import annotations

from typing import Any

from outrider.runtime.errors import OutriderError


class Problem(OutriderError):
    """A request that cannot be served. `detail` says in one or two sentences what is wrong and what to do."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra
        """More members of the problem document, such as `errors` or `current_version`."""
        self.headers: dict[str, str] = {}


class Invalid(Problem):
    """A value is not allowed."""

    status = 422
    title = "Invalid value"


class NotSignedIn(Problem):
    """Who asks is not known, or no longer."""

    status = 401
    title = "Not signed in"


class Forbidden(Problem):
    """Who asks may not do this."""

    status = 403
    title = "Not allowed"


class NotFound(Problem):
    """It does not exist, or belongs to another tenant: the two look the same."""

    status = 404
    title = "Not found"


class Conflict(Problem):
    """It contradicts what is there: a name that is taken, a version that is no longer current."""

    status = 409
    title = "Conflict"


class Gone(Problem):
    """It was there and cannot be used any more."""

    status = 410
    title = "Gone"


class StaleVersion(Problem):
    """If-Match names another version than the current one: read again, then change."""

    status = 412
    title = "Changed meanwhile"


class TooLarge(Problem):
    """The request is larger than allowed."""

    status = 413
    title = "Too large"


class Stopped(Problem):
    """An emergency stop is in force."""

    status = 423
    title = "Emergency stop"


class VersionRequired(Problem):
    """A change needs If-Match with the version it was made on."""

    status = 428
    title = "If-Match is missing"


class TooMany(Problem):
    """Too many attempts; wait as long as Retry-After says."""

    status = 429
    title = "Too many attempts"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.headers["Retry-After"] = str(retry_after_s)


class Unavailable(Problem):
    """Something the answer needs is away for now; try again."""

    status = 503
    title = "Unavailable"

    def __init__(self, detail: str, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.headers["Retry-After"] = str(retry_after_s)


class Broken(Problem):
    """A mistake of ours."""

    status = 500
    title = "Internal error"

    def __init__(self) -> None:
        super().__init__("The registry made a mistake; its log has the details. Please report it.")
