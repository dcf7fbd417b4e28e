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
        """More members of the problem document, such as `limit` or `rejected`."""
        self.headers: dict[str, str] = {}


class NotSignedIn(Problem):
    """The key or token is missing, wrong, or no longer good."""

    status = 401
    title = "Not signed in"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.headers["WWW-Authenticate"] = 'Basic realm="Outrider", charset="UTF-8", Bearer realm="Outrider"'


class Forbidden(Problem):
    """Who asks may not do this."""

    status = 403
    title = "Not allowed"


class NotFound(Problem):
    """It does not exist, or belongs to another tenant: the two look the same."""

    status = 404
    title = "Not found"


class Conflict(Problem):
    """It contradicts what is there."""

    status = 409
    title = "Conflict"


class TooLarge(Problem):
    """The request is larger than allowed; the detail names the limit."""

    status = 413
    title = "Too large"


class Unsupported(Problem):
    """The body is encoded in a way that is not taken."""

    status = 415
    title = "Unsupported encoding"


class Invalid(Problem):
    """A value is not allowed."""

    status = 422
    title = "Invalid value"


class Refused(Problem):
    """The upload was refused and is kept with its reasons; sending it again as it is changes nothing."""

    status = 422
    title = "Rejected"


class TooMany(Problem):
    """More than a limit allows; `limit` says which, Retry-After how long to wait."""

    status = 429
    title = "Too many"

    def __init__(self, detail: str, retry_after_s: int, **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.headers["Retry-After"] = str(retry_after_s)


class Unavailable(Problem):
    """Something the answer needs is away for now; try again."""

    status = 503
    title = "Unavailable"

    def __init__(self, detail: str, retry_after_s: int = 2, **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.headers["Retry-After"] = str(retry_after_s)


class Broken(Problem):
    """A mistake of ours."""

    status = 500
    title = "Internal error"

    def __init__(self) -> None:
        super().__init__("The gateway made a mistake; its log has the details. Please report it.")
