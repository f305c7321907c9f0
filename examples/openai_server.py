"""An OpenAI-compatible /v1/embeddings in one process.

pip install ggembed fastapi uvicorn
MODEL=path/to/model.gguf uvicorn --app-dir examples openai_server:app
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ggembed import BusyError, Embedder, EmbedError
from pydantic import BaseModel, Field


class Body(BaseModel):
    input: str | list[str] = Field(min_length=1)
    model: str = "ggembed"
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Embedder(os.environ.get("MODEL")) as app.state.embedder:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/embeddings")
async def embeddings(body: Body, request: Request) -> dict[str, Any]:
    embedder = request.app.state.embedder
    if embedder.stats().n_tokens_queued > 100_000:  # OpenAI's client then tries again by itself
        raise BusyError("too many texts are waiting; come again later")
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await embedder.aencode(texts, truncate_dim=body.dimensions, return_info=True)
    rows = found.rows.tolist() if body.encoding_format == "float" else map(b64encode, found.rows)
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = dict.fromkeys(("prompt_tokens", "total_tokens"), int(found.n_tokens.sum()))
    return {"object": "list", "model": body.model, "data": data, "usage": usage}


@app.exception_handler(RequestValidationError)
@app.exception_handler(ValueError)
@app.exception_handler(EmbedError)
async def refuse(_: Request, error: Exception) -> JSONResponse:
    is_invalid = isinstance(error, (ValueError, RequestValidationError))
    status = 400 if is_invalid else 429 if isinstance(error, BusyError) else 503
    text = error.errors()[0]["msg"] if isinstance(error, RequestValidationError) else str(error)
    kind = "invalid_request_error" if is_invalid else "server_error"
    return JSONResponse({"error": {"message": text, "type": kind, "code": None}}, status)
