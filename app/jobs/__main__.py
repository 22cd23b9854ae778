"""`python -m app.jobs`: a worker with settings from the environment."""

from __future__ import annotations

import argparse
import sys

from app.jobs.worker import main
from app.logs import configure_logging
from app.settings import load_settings
from training.errors import ConfigurationError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="gradcast worker", description="Runs the training jobs that a service queued.")
    parser.add_argument(
        "--leave-when-idle", type=float, metavar="SECONDS", help="leave after so long without a job (default: stay)"
    )
    options = parser.parse_args()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    configure_logging(settings.log_level, settings.log_format)
    main(settings, options.leave_when_idle)
