"""An OpenAI-compatible /v1/embeddings in one process.

pip install ggembed fastapi uvicorn
MODEL=path/to/model.gguf uvicorn --app-dir examples openai_server:app
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ggembed import Embedder, EmbedError
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
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await request.app.state.embedder.aencode(
        texts, truncate_dim=body.dimensions, return_info=True
    )
    as_bytes = body.encoding_format == "base64"
    rows = [base64.b64encode(row).decode() if as_bytes else row.tolist() for row in found.rows]
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    n = int(found.n_tokens.sum())
    usage = {"prompt_tokens": n, "total_tokens": n}
    return {"object": "list", "model": body.model, "data": data, "usage": usage}


@app.exception_handler(RequestValidationError)
@app.exception_handler(ValueError)
@app.exception_handler(EmbedError)
async def refuse(_: Request, error: Exception) -> JSONResponse:
    status = 400 if isinstance(error, (ValueError, RequestValidationError)) else 503
    kind = "invalid_request_error" if status == 400 else "server_error"
    return JSONResponse({"error": {"message": str(error), "type": kind, "code": None}}, status)
