"""`python -m app`: the service with settings from the environment."""

from __future__ import annotations

import sys

from app.server import serve
from training.errors import ConfigurationError

if __name__ == "__main__":
    try:
        serve()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
