"""Optional dependencies: asked for by name, and missed in a sentence instead of a traceback."""

from __future__ import annotations

from importlib.util import find_spec

from training.errors import ConfigurationError, Problem


def require_extra(package: str, extra: str, where: str) -> None:
    """Refuse what needs a package that is not installed.

    Args:
        package: Import name.
        extra: The extra of this distribution that brings it.
        where: The option or key that asked for it.

    Raises:
        ConfigurationError: `extra_missing`.
    """
    if find_spec(package) is None:
        message = f"needs the package {package}, which is not installed."
        raise ConfigurationError([Problem("extra_missing", where, message, f"pip install 'gradcast[{extra}]'")])
