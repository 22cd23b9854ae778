"""What is wrong with one series of a request; the others are forecast all the same."""

from __future__ import annotations

from app.errors import FieldProblem


class SeriesError(Exception):
    """One series that cannot be forecast.

    Attributes:
        code: Key of `app.errors.SERIES_PROBLEMS`.
        path: Dotted path into the request.
        message: What it must be; never the data.
    """

    def __init__(self, code: str, path: str, message: str) -> None:
        self.code = code
        self.path = path
        self.message = message
        super().__init__(code, path)

    def as_field(self) -> FieldProblem:
        """The problem as a field of a problem document."""
        return FieldProblem(self.path, self.code, self.message)
