"""Errors that carry fields; the command line and the service translate them once, at their border."""

from __future__ import annotations


class GradcastError(Exception):
    """A mistake or fault that a user can act on.

    The message always reads `<where> must be <contract>, but is <actual> instead. <remedy>`.

    Attributes:
        code: Stable identifier of the kind of error, part of the public contract.
        where: The column, key, file or argument at fault.
        contract: What it must be.
        actual: What it is. Never the user's data in bulk.
        remedy: What to do about it.
    """

    code = "error"

    def __init__(self, where: str, contract: str, actual: str, remedy: str = "") -> None:
        self.where = where
        self.contract = contract
        self.actual = actual
        self.remedy = remedy
        super().__init__(where, contract, actual, remedy)

    def __str__(self) -> str:
        sentence = f"{self.where} must be {self.contract}, but is {self.actual} instead."
        return f"{sentence} {self.remedy}".rstrip()


class BundleError(GradcastError):
    """A bundle directory that is damaged, foreign or from another schema version."""

    code = "bundle_invalid"


class NetworkConfigError(GradcastError):
    """A network that cannot be built as described."""

    code = "network_config_invalid"


class ShapeError(GradcastError):
    """A tensor whose shape does not fit the network."""

    code = "shape_invalid"
