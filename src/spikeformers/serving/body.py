"""A request's body: JSON of bounded size that arrives in bounded time, or a 4xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from spikeformers.serving.problems import Problem, invalid
from spikeformers.serving.schema import problem_of

Model = TypeVar("Model", bound=BaseModel)

BODY_SECONDS = 30.0  # for the whole body


async def read_request(request: Request, kind: type[Model], most: int) -> Model:
    """The body as ``kind``.

    Raises Problem: 415 for another type than JSON, 413 for more than ``most`` bytes, 408 for a body
    that takes too long, 400 for all that is wrong in it.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(
            415, f"the body must be JSON: set Content-Type to application/json, not {media!r}."
        )
    raw = await _read(request, most)
    return validated(_parsed(raw), kind)


def validated(content: Any, kind: type[Model]) -> Model:
    """Plain values as ``kind``; Problem names the first that is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise problem_of(error.errors(include_url=False, include_context=False)) from None


async def _read(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    body = bytearray()

    async def collect() -> None:
        async for piece in request.stream():
            body.extend(piece)
            if len(body) > most:
                raise _too_large(most)

    try:
        await asyncio.wait_for(collect(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_SECONDS:g} s.") from None
    except ClientDisconnect:
        raise Problem(400, "the connection ended before the body did.") from None
    return bytes(body)


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most:,} bytes.", code="body_too_large")


def _parsed(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(
            None,
            f"the body is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}.",
            "invalid_json",
        ) from None
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid(None, "the body is nested too deeply.", "invalid_json") from None
    except ValueError as error:  # also whole numbers of thousands of digits
        raise invalid(None, f"the body is not valid JSON: {error}.", "invalid_json") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
