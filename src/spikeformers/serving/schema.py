"""Requests, as they come: types and ranges of every parameter, strictly.

A parameter that is not here is refused by name; null is the same as leaving it out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from spikeformers.serving.problems import Problem, invalid
from spikeformers.values import LARGEST_SEED

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_LOGPROBS = 20
COLDEST = 1e-6  # a lower temperature above 0 is beyond what float64 divides by
HOTTEST = 100.0

StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    """No conversions, no unknown keys; null keys are left out."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None}


class StreamOptions(_Strict):
    """What a stream holds besides text."""

    include_usage: bool = False


class Sampled(_Strict):
    """Parameters that completions and chats share."""

    model: str | None = None
    """The name in /v1/models; the server has one model."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=HOTTEST)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    top_k: int = Field(0, ge=0)
    """Sample from the k likeliest; 0: from all."""
    min_p: Annotated[Finite, Field(ge=0, le=1)] = 0.0
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    """Of the first choice; the second has the next one. Random if none is given."""
    logit_bias: dict[str, Bias] = Field(default_factory=dict)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    spike_details: bool = False
    """Report what fired for each token."""

    @property
    def stops(self) -> list[str]:
        """Stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: str | Tokens | list[str] | list[Tokens]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    """Log-probabilities of the tokens, and of so many likeliest ones."""
    echo: bool = False
    """Begin the text with the prompt."""


class TextPart(_Strict):
    """Part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def as_template_input(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)


class TokenizeRequest(_Strict):
    """POST /tokenize, as vLLM has it."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(_Strict):
    """POST /detokenize, as vLLM has it."""

    model: str | None = None
    tokens: list[Token]


FORMS = {
    "prompt": "text, a list of texts, a list of tokens, or a list of such lists; none of tokens "
    "may be empty",
    "stop": f"text, or a list of up to {MOST_STOPS} texts; none may be empty",
    "content": 'text, or a list of {"type": "text", "text": ...}',
}
"""Forms of parameters that have several, for messages."""


def problem_of(errors: list[Any]) -> Problem:
    """The first of pydantic's errors as an answer."""
    unsupported = [error for error in errors if error["type"] == "extra_forbidden"]
    error = (unsupported or errors)[0]
    place = [str(part) for part in error["loc"]]
    if unsupported:
        name = ".".join(place)
        return invalid(name, f"the parameter {name!r} is not supported.", "unsupported_parameter")
    for key, form in FORMS.items():
        if key in place:
            name = ".".join(place[: place.index(key) + 1])
            return invalid(name, f"{name} must be {form}.", "invalid_value")
    subject = ".".join(place)
    fault = error["msg"][:1].lower() + error["msg"][1:]
    return invalid(subject or None, f"{subject or 'the request'}: {fault}.", "invalid_value")


def check_completion(request: CompletionRequest) -> None:
    """Raise Problem for parameters that contradict each other."""
    if not request.prompt and isinstance(request.prompt, list):
        raise invalid("prompt", "prompt is an empty list.", "invalid_value")
    _check_sampled(request)


def check_chat(request: ChatRequest) -> None:
    """Raise Problem for parameters that contradict each other."""
    given = (request.max_tokens, request.max_completion_tokens)
    if None not in given and given[0] != given[1]:
        raise invalid(
            "max_tokens",
            "max_tokens and max_completion_tokens are different; give one of them.",
            "invalid_value",
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs: true.", "invalid_value")
    _check_sampled(request)


def _check_sampled(request: Sampled) -> None:
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options needs stream: true.", "invalid_value")
    if 0 < request.temperature < COLDEST:
        raise invalid(
            "temperature",
            f"temperature is {request.temperature}; it must be 0, or at least {COLDEST}.",
            "invalid_value",
        )
