"""An HTTP server for masked language models: fill masks, score, explain and embed."""

from unmask.errors import MissingExtra

try:
    from unmask.serving.app import Limits, create_app
    from unmask.serving.server import listen, make_server, run
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "uvicorn", "starlette", "prometheus_client"):
        raise
    raise MissingExtra(error.name, "serve", "the server") from None

__all__ = ["Limits", "create_app", "listen", "make_server", "run"]
