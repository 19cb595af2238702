"""Answers as JSON, and the form that errors have in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from unmask.errors import DivergedError


class JsonAnswer(JSONResponse):
    """JSON in ASCII, so that any text of a request can stand in it."""

    def render(self, content: Any) -> bytes:
        """Return the content as bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_answer(
    path: str, status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JsonAnswer:
    """Return the answer for an error; below ``/v1`` in the shape of OpenAI.

    Args:
        path: of the request.
        status: of the answer.
        error: what is wrong.
        field: of the request that is.
        headers: of the answer.
    """
    if path.startswith("/v1/"):
        kind = "invalid_request_error" if status < 500 else "server_error"
        content: Any = {"error": {"message": error, "type": kind, "param": field, "code": None}}
    else:
        content = {"error": error} | ({"field": field} if field else {})
    return JsonAnswer(content, status, headers)


def refuse(
    status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> NoReturn:
    """End a request with an error; arguments are those of :func:`error_answer`.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(status, {"error": error, "field": field}, dict(headers or {}))


def add_error_answers(app: FastAPI) -> None:
    """Answer every exception of an application in this form."""

    async def refused(request: Request, error: Any) -> Response:
        detail, status = error.detail, error.status_code
        found: dict[str, Any] = detail if isinstance(detail, dict) else {"error": str(detail)}
        if status == 400 and error.__cause__:
            found = {"error": "the body cannot be read as JSON: too deep, a number too long, or not in UTF-8"}
        return error_answer(request.url.path, status, **found, headers=error.headers)

    async def invalid(request: Request, error: Any) -> Response:
        # Of the errors of alternatives (a text, a list of texts) the one deepest in the request.
        found = max(error.errors(), key=lambda one: len(one["loc"]))
        return error_answer(request.url.path, 422, *_described(found))

    async def failed(request: Request, error: Exception) -> Response:
        known = isinstance(error, DivergedError)
        message = str(error) if known else "an error of the server; its log has the details"
        return error_answer(request.url.path, 500, message)

    handlers: dict[Any, Callable[..., Any]] = {
        StarletteHTTPException: refused,
        RequestValidationError: invalid,
        Exception: failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _described(error: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what is wrong with a request, and the field: ``inputs[3]`` or ``parameters.top_k``."""
    if error["type"] == "json_invalid":
        return "the body is no valid JSON", None
    # Names of alternatives ('str', 'list[str]') stand between the names of fields.
    path = [part for part in error["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    path = [part for part in path if part not in ("str", "list")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return error["msg"].removeprefix("Value error, "), field or None
