"""The web application and its routes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from unmask.errors import ConfigError, DataError, UnmaskError
from unmask.machine import version_of
from unmask.model.pooling import MEAN, Pooling
from unmask.progress import Progress
from unmask.serving.answers import JsonAnswer, add_error_answers, refuse
from unmask.serving.batcher import AbandonedError, Batcher, QueueFullError, Task
from unmask.serving.engine import ServedModel
from unmask.serving.gate import Gate
from unmask.serving.metrics import Metrics
from unmask.serving.routes_page import routes_page
from unmask.serving.schemas import (
    EmbeddingsRequest,
    ErrorAnswer,
    ExplainRequest,
    FillMaskRequest,
    FillRequest,
    MaskCandidate,
    ScoreRequest,
)

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

_PAGE = Path(__file__).parent / "page"
_STATUS_OF_GONE = 499  # nobody sees it; in the log it says that the client went away


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        body: bytes of a request.
        texts: texts of a request.
        tokens: tokens of all texts of a request.
        waiting: requests that may wait.
        seconds: from a request until its answer.
        batch_tokens: tokens computed together.
        batches: computed at the same time by a model in PyTorch on a CPU; more than there are cores are not.
    """

    body: int = 1 << 20
    texts: int = 256
    tokens: int = 16_384
    waiting: int = 256
    seconds: float = 30.0
    batch_tokens: int = 4096
    batches: int = 4


def create_app(
    models: Mapping[str, LanguageModel],
    limits: Limits = Limits(),
    *,
    poolings: Mapping[str, Pooling] = MappingProxyType({}),
    api_key: str | None = None,
    hosts: Sequence[str] = ("*",),
    progress: Progress = Progress(),
) -> FastAPI:
    """Return the application for some models.

    Args:
        models: by name; the first is used where a request names none.
        limits: what it accepts.
        poolings: how tokens become one embedding, by the name of the model; by default their mean.
        api_key: what requests must bring as a bearer token, if anything.
        hosts: names by which the server may be called; a page of another site that points its name at this machine is
            refused so.
        progress: logs every request, without its texts.
    """
    server = _Server(models, limits, poolings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        server.batcher.start()
        yield
        server.ready = False
        await asyncio.to_thread(server.batcher.stop)

    app = FastAPI(
        title="unmask",
        version=version_of("unmask"),
        summary="Fill masks, score, explain and embed texts with masked language models.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts of another host
        redoc_url=None,
        default_response_class=JsonAnswer,
        responses={
            status: {"model": ErrorAnswer} for status in (400, 401, 404, 408, 413, 422, 429, 503, 504)
        },
    )
    app.add_middleware(
        Gate,
        api_key=api_key,
        most_bytes=limits.body,
        seconds=limits.seconds,
        metrics=server.metrics,
        progress=progress,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    add_error_answers(app)
    _add_page(app)
    _add_status_routes(app, server)
    _add_model_routes(app, server)
    return app


class _Server:
    """The models, and what is between a request and them."""

    def __init__(
        self, models: Mapping[str, LanguageModel], limits: Limits, poolings: Mapping[str, Pooling]
    ) -> None:
        self.limits = limits
        cores = torch.get_num_threads()
        batches = min(limits.batches, cores)
        self.batcher = Batcher(
            limits.batch_tokens,
            limits.waiting,
            threads=batches,
            cores=cores,
            use_cores=torch.set_num_threads,
        )
        self.models = {
            name: ServedModel(name, lm, self.batcher.check, poolings.get(name, MEAN), batches)
            for name, lm in models.items()
        }
        self.metrics = Metrics(self.batcher)
        self.ready = True

    def model(self, name: str | None) -> ServedModel:
        """Return the model of this name, or the first.

        Raises:
            HTTPException: 404, there is none.
        """
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            refuse(404, f"there is no such model; there are {', '.join(self.models)}", "model")
        return found

    def predictor(self, name: str | None) -> ServedModel:
        """Return the model of this name, or the first, to predict tokens.

        Raises:
            HTTPException: there is none (404), or its LM head was never trained (422).
        """
        found = self.model(name)
        if found.lm.new_head:
            refuse(
                422, "this model has no LM head, so it predicts nothing; /v1/embeddings can use it", "model"
            )
        return found

    async def run(
        self,
        request: Request,
        model: ServedModel,
        task: Task,
        texts: Sequence[str],
        field: str,
        lengths: Sequence[int] | None = None,
    ) -> list[Any]:
        """Return a result for each text; ``lengths`` are those of :meth:`lengths`, where they are known.

        Raises:
            HTTPException: there are too many texts or tokens (422), too many requests wait (429), or it takes too
                long (504); or the client went away.
        """
        lengths = await self.lengths(model, texts, field) if lengths is None else lengths
        costs = [task.cost(text, length) for text, length in zip(texts, lengths, strict=True)]
        computing = asyncio.ensure_future(self.batcher.run(task, texts, costs, self.limits.seconds))
        leaving = asyncio.ensure_future(_client_leaves(request))
        try:
            await asyncio.wait((computing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not computing.done():
                refuse(_STATUS_OF_GONE, "the client went away")
            return await computing
        except (ConfigError, DataError) as error:
            refuse(422, str(error))
        except QueueFullError:
            seconds = self.batcher.seconds_of_queue
            refuse(429, "too many requests wait; try again later", headers={"Retry-After": str(seconds)})
        except (TimeoutError, AbandonedError):
            refuse(504, f"not done within {self.limits.seconds:g} seconds; send fewer or shorter texts")
        finally:
            computing.cancel()
            leaving.cancel()

    async def lengths(self, model: ServedModel, texts: Sequence[str], field: str) -> list[int]:
        """Return the tokens of each text.

        Raises:
            HTTPException: 422, there are too many texts or tokens.
        """
        limits = self.limits
        if not 1 <= len(texts) <= limits.texts:
            refuse(422, f"expected 1 to {limits.texts} texts, got {len(texts)}", field)
        # Much text is tokenised outside the event loop, so that other requests do not wait for it.
        much = sum(map(len, texts)) > 10_000
        found = await asyncio.to_thread(model.lengths, texts) if much else model.lengths(texts)
        if sum(found) > limits.tokens:
            refuse(422, f"expected at most {limits.tokens:,} tokens in all, got {sum(found):,}", field)
        return found


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _texts(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _name(field: str, given: str | list[str], number: int) -> str:
    return field if isinstance(given, str) else f"{field}[{number}]"


def _add_model_routes(app: FastAPI, server: _Server) -> None:
    async def fill_mask(request: Request, body: FillMaskRequest, name: str | None = None) -> Any:
        model = server.predictor(name)
        results = await server.run(
            request, model, model.fill_mask(body.parameters), _texts(body.inputs), "inputs"
        )
        for number, result in enumerate(results):
            if isinstance(result, UnmaskError):
                refuse(422, str(result), _name("inputs", body.inputs, number))
        return JsonAnswer(results[0] if isinstance(body.inputs, str) else results)

    fills = list[MaskCandidate] | list[list[MaskCandidate]] | list[list[list[MaskCandidate]]]

    @app.post("/", response_model=fills, tags=["Hugging Face"])
    async def fill_mask_of_first(request: Request, body: FillMaskRequest) -> Any:
        """Fill masks with the first model, as the fill-mask task of Hugging Face: InferenceClient(URL).fill_mask(...)."""
        return await fill_mask(request, body)

    @app.post("/models/{name}", response_model=fills, tags=["Hugging Face"])
    async def fill_mask_of_model(request: Request, name: str, body: FillMaskRequest) -> Any:
        """Fill masks with a model of this name, as the fill-mask task of Hugging Face."""
        return await fill_mask(request, body, name)

    @app.post("/fill", tags=["unmask"])
    async def fill(request: Request, body: FillRequest) -> list[dict[str, Any]]:
        """Fill masks and blanks: the JSON of 'unmask fill', one result for each text."""
        model = server.predictor(body.model)
        return await _answer(request, server, model, model.fill(body.parameters), body.inputs)

    @app.post("/score", tags=["unmask"])
    async def score(request: Request, body: ScoreRequest) -> list[dict[str, Any]]:
        """Score texts by pseudo-log-likelihood: the JSON of 'unmask score', one result for each text."""
        model = server.predictor(body.model)
        return await _answer(request, server, model, model.score(body.parameters), body.inputs)

    @app.post("/explain", tags=["unmask"])
    async def explain(request: Request, body: ExplainRequest) -> dict[str, Any]:
        """Mask a text as in training, and return every step: the JSON of 'unmask explain'."""
        model = server.predictor(body.model)
        results = await server.run(request, model, model.explain(body.parameters), [body.inputs], "inputs")
        if isinstance(results[0], UnmaskError):
            refuse(422, str(results[0]))
        return JsonAnswer(results[0])  # type: ignore[return-value]

    @app.post("/v1/embeddings", tags=["OpenAI"])
    async def embeddings(request: Request, body: EmbeddingsRequest) -> dict[str, Any]:
        """Embed texts, in the shape of OpenAI's embeddings: all tokens of the last layer, pooled as /models says."""
        return await _embeddings(request, server, body)


async def _answer(
    request: Request, server: _Server, model: ServedModel, task: Task, inputs: str | list[str]
) -> Any:
    return JsonAnswer(await server.run(request, model, task, _texts(inputs), "inputs"))


async def _embeddings(request: Request, server: _Server, body: EmbeddingsRequest) -> Any:
    model, texts = server.model(body.model), _texts(body.input)
    if not model.embedding_size:
        refuse(422, "this model was exported without its hidden states, so it gives no embeddings", "model")
    if body.dimensions not in (None, model.embedding_size):
        refuse(422, f"the embeddings of this model have {model.embedding_size} dimensions", "dimensions")
    lengths = await server.lengths(model, texts, "input")
    for number, length in enumerate(lengths):
        if length > model.lm.max_length:
            message = (
                f"the text has {length:,} tokens, the model takes {model.lm.max_length:,}; send it in parts"
            )
            refuse(422, message, _name("input", body.input, number))
    vectors = await server.run(request, model, model.embed(body.normalize), texts, "input", lengths)
    return JsonAnswer(
        {
            "object": "list",
            "model": model.name,
            "data": [
                {"object": "embedding", "index": number, "embedding": _encoded(vector, body.encoding_format)}
                for number, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)},
        }
    )


def _encoded(vector: np.ndarray, how: str) -> list[float] | str:
    if how == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


def _add_page(app: FastAPI) -> None:
    policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:"
    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": policy})


def _add_status_routes(app: FastAPI, server: _Server) -> None:
    @app.get("/models", tags=["Status"])
    async def models() -> list[dict[str, Any]]:
        """Return the models and what they take."""
        return [model.about() for model in server.models.values()]

    @app.get("/v1/models", tags=["OpenAI"])
    async def openai_models() -> dict[str, Any]:
        """Return the models in the shape of OpenAI's list."""
        data = [{"id": name, "object": "model", "owned_by": "unmask", "created": 0} for name in server.models]
        return {"object": "list", "data": data}

    @app.get("/health/live", tags=["Status"])
    async def live() -> dict[str, str]:
        """Return 200 as long as the server runs."""
        return {"status": "ok"}

    @app.get("/health", tags=["Status"])
    @app.get("/health/ready", tags=["Status"])
    async def ready() -> dict[str, str]:
        """Return 200 if the server takes requests, 503 while it stops or its queue is full."""
        if not server.ready or server.batcher.waiting >= server.limits.waiting:
            refuse(503, "stopping" if not server.ready else "the queue is full")
        return {"status": "ok"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(routes_page(app.openapi(), list(server.models), server.model(None).mask_token))

    @app.get("/metrics", tags=["Status"], response_class=Response)
    async def metrics() -> Response:
        """Return counts and times in the format of Prometheus."""
        return server.metrics.response()
