"""The paths of the server; bodies are read strictly (`body`), so FastAPI only routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from spikeformers.errors import SpikeformersError
from spikeformers.foreign import foreign
from spikeformers.generation import prompt_ids
from spikeformers.serving.body import read_request
from spikeformers.serving.exchange import Exchange
from spikeformers.serving.page import page_response
from spikeformers.serving.prepare import Prepared, check_model, prepare_chat, prepare_completion
from spikeformers.serving.problems import Problem, invalid
from spikeformers.serving.responses import EventStream, answer_of, whole_answer
from spikeformers.serving.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Sampled,
    TokenizeRequest,
    check_chat,
    check_completion,
)

if TYPE_CHECKING:
    from spikeformers.serving.metrics import Metrics
    from spikeformers.serving.service import LoadedModel, Service


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The body's schema, for /openapi.json."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": kind.model_json_schema()}},
        }
    }


def make_router(service: Service, metrics: Metrics) -> APIRouter:
    """All paths over one service."""
    router = APIRouter()
    most = service.options.max_body

    async def answer(request: Request, sampled: Sampled, prepared: Prepared) -> Response:
        exchange = Exchange(service, metrics, prepared)
        if not sampled.stream:
            return await whole_answer(exchange, request)
        exchange.open()
        options = sampled.stream_options
        return EventStream(exchange, options is not None and options.include_usage)

    @router.post("/v1/completions", openapi_extra=_takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        model = service.model
        given = await read_request(request, CompletionRequest, most)
        check_completion(given)
        work = service.on_text_worker
        return await answer(
            request, given, await work(prepare_completion, given, model, service.options)
        )

    @router.post("/v1/chat/completions", openapi_extra=_takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        model = service.model
        given = await read_request(request, ChatRequest, most)
        check_chat(given)
        work = service.on_text_worker
        return await answer(request, given, await work(prepare_chat, given, model, service.options))

    @router.get("/v1/models")
    async def models() -> Response:
        return answer_of({"object": "list", "data": [service.model.describe()]})

    @router.get("/v1/models/{name:path}")
    async def model_by_name(name: str) -> Response:
        check_model(name, service.model)
        return answer_of(service.model.describe())

    @router.post("/tokenize", openapi_extra=_takes(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        model = service.model
        given = await read_request(request, TokenizeRequest, most)
        check_model(given.model, model)
        tokens = await service.on_text_worker(_tokens_of, given, model)
        return answer_of({"tokens": tokens, "count": len(tokens), "max_model_len": model.context})

    @router.post("/detokenize", openapi_extra=_takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        model = service.model
        given = await read_request(request, DetokenizeRequest, most)
        check_model(given.model, model)
        return answer_of({"prompt": await service.on_text_worker(_text_of, given, model)})

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        tokenizer = service.model.tokenizer
        return answer_of(
            {
                "bos_token": tokenizer.bos_token,
                "eos_token": tokenizer.eos_token,
                "chat_template": tokenizer.chat_template,
            }
        )

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Response:
        ready = service.ready
        return answer_of({"status": "ok" if ready else "loading"}, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics_text() -> Response:
        text = await asyncio.to_thread(metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.head("/", include_in_schema=False)
    @router.get("/")
    async def page() -> Response:
        return page_response()

    return router


def _tokens_of(given: TokenizeRequest, model: LoadedModel) -> list[int]:
    if not given.prompt:
        return []
    try:
        rows, special = model.engine.vocabulary, given.add_special_tokens
        return prompt_ids(model.tokenizer, given.prompt, rows, special=special)
    except SpikeformersError as error:
        raise invalid("prompt", str(error), "invalid_value") from None


def _text_of(given: DetokenizeRequest, model: LoadedModel) -> str:
    rows = model.engine.vocabulary
    if given.tokens and max(given.tokens) >= rows:
        raise invalid(
            "tokens",
            f"tokens has {max(given.tokens)}, and the model has {rows} tokens (from 0).",
            "invalid_value",
        )
    try:
        with foreign("the tokens cannot be decoded"):
            return model.tokenizer.decode(given.tokens, skip_special_tokens=False)
    except SpikeformersError as error:
        raise Problem(400, str(error), param="tokens") from None
