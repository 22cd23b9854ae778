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
        "access_log": settings.log_level == "debug",
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
    server = build_server(settings)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    # uvicorn repeats the signal after it has shut down in good order: that is a success, not a death by signal.
    signal.signal(signal.SIGTERM, _leave_done)
    server.run()


def _leave_done(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)
