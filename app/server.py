"""The server process: `serve(settings)`, or `python -m app` with settings from the environment.

Importing this module loads neither torch nor FastAPI, because what the numeric libraries read from the environment must
be there before they load.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from app.logs import configure_logging
from app.settings import ServiceSettings, load_settings

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)


def set_process_environment(settings: ServiceSettings) -> None:
    """Set what torch, its math library and MLflow read once, unless the user did."""
    defaults = {
        # torch.set_num_threads in one thread does not bind the others.
        "OMP_NUM_THREADS": str(settings.num_threads),
        "MKL_NUM_THREADS": str(settings.num_threads),
        # The same row gives the same bits at every position of a batch and at every address.
        "MKL_CBWR": "AUTO",
        # The service downloads bundles and never runs code that came with a model.
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "torch" in sys.modules:
        logger.debug("torch was loaded before the service; its environment is as it was")


def spare_collector() -> None:
    """Take what lives as long as the process out of the garbage collector's rounds.

    The libraries and the model are half a million objects; walking through them stops every request for a tenth of a second.
    """
    gc.collect()
    gc.freeze()


def build_server(settings: ServiceSettings) -> uvicorn.Server:
    """The application behind uvicorn, which on SIGTERM turns unready first, then finishes the queue, then leaves."""
    set_process_environment(settings)
    import uvicorn

    from app.main import create_app

    app = create_app(settings)
    app.state.catalog.on_swap = spare_collector

    class DrainingServer(uvicorn.Server):
        """uvicorn with a pause between "not ready" and the closed port."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if app.state.engine.is_draining or settings.drain_seconds == 0:
                app.state.engine.start_draining()
                super().handle_exit(sig, frame)  # at once, or at the second signal
                return
            app.state.engine.start_draining()
            logger.info("draining for %g seconds", settings.drain_seconds)
            loop: asyncio.AbstractEventLoop = app.state.loop
            loop.call_soon_threadsafe(loop.call_later, settings.drain_seconds, self._leave, sig)

        def _leave(self, sig: int) -> None:
            super().handle_exit(sig, None)

    config: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_level": settings.log_level,
        "log_config": None,
        # The application has an access log of its own, with ids of requests and without queries.
        "access_log": False,
        "timeout_graceful_shutdown": settings.shutdown_seconds,
        "server_header": False,
        "lifespan": "on",
    }
    return DrainingServer(uvicorn.Config(app, **config))


def serve(settings: ServiceSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: How; from the environment if None.

    Raises:
        ConfigurationError: If the environment's settings are not valid.
    """
    settings = settings or load_settings()
    configure_logging(settings.log_level, settings.log_format)
    tell_who_may_come_in(settings)
    server = build_server(settings)
    # uvicorn repeats the signal after it has shut down in good order: that is a success, not a death by signal.
    signal.signal(signal.SIGTERM, _leave_done)
    server.run()


def tell_who_may_come_in(settings: ServiceSettings) -> None:
    """Say aloud whether the service is open, or that it will let nobody in.

    Raises:
        ConfigurationError: If the keys cannot be read.
    """
    from app.access.keys import KeyStore

    keys = KeyStore(settings.keys_directory).list_keys()
    if settings.open == "always" or (settings.open == "until_keys" and not keys):
        logger.warning("open: everybody on this machine may forecast, train and promote. `gradcast keys create` changes that")
    elif not keys:
        remedy = "`gradcast keys create NAME --scope admin` makes one, and needs no restart"
        logger.warning("there is no key yet, so nobody is let in: %s", remedy)
    else:
        logger.info("keys are asked for; %d are in %s", len(keys), settings.keys_directory)


def _leave_done(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)
