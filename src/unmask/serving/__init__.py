"""An HTTP server for masked language models: fill masks, score, explain and embed."""

from unmask.errors import require_packages

require_packages(("fastapi", "uvicorn", "prometheus_client"), "serve", "the server")

from unmask.serving.app import Limits, create_app  # noqa: E402
from unmask.serving.server import listen, make_server, run  # noqa: E402

__all__ = ["Limits", "create_app", "listen", "make_server", "run"]
