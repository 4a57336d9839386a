"""From a request to jobs: prompts become tokens, parameters are checked against the model."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spikeformers.errors import SpikeformersError
from spikeformers.generation import prompt_ids
from spikeformers.serving.answers import ChatForm, CompletionForm, Form
from spikeformers.serving.jobs import Job, Sampling
from spikeformers.serving.problems import Problem, invalid
from spikeformers.serving.schema import ChatRequest, CompletionRequest, Sampled
from spikeformers.values import LARGEST_SEED

if TYPE_CHECKING:
    from spikeformers.serving.options import ServeOptions
    from spikeformers.serving.service import LoadedModel

SEEDS = 1 << 32  # random ones are drawn from so many


@dataclass(frozen=True)
class Prepared:
    """What a request asks of the engine, and the form of its answer."""

    jobs: tuple[Job, ...]
    form: Form
    begins: tuple[str, ...]
    """Text that each choice begins with: an echoed prompt, or nothing."""
    prompt_tokens: int


def check_model(name: str | None, model: LoadedModel) -> None:
    """Raise Problem 404 for the name of another model."""
    if name is not None and name != model.name:
        raise Problem(
            404,
            f"there is no model {name!r} here; this server has {model.name!r}.",
            param="model",
            code="model_not_found",
        )


def prepare_completion(
    request: CompletionRequest, model: LoadedModel, options: ServeOptions
) -> Prepared:
    """Jobs of a completion: ``n`` choices of the first prompt, then of the second, and so on."""
    check_model(request.model, model)
    given = _separate(request.prompt)
    _check_number(len(given) * request.n, options)
    prompts = [_ids(prompt, model) for prompt in given]
    for ids in prompts:
        _check_length(ids, min(1, request.max_tokens), model, "prompt")
    seed = _seed(request)
    jobs = [
        _job(
            *(request, ids, _shifted(seed, number), request.max_tokens, model),
            logprobs=request.logprobs,
            prompt_logprobs=request.echo and request.logprobs is not None,
        )
        for ids in prompts
        for number in range(request.n)
    ]
    texts = [_prompt_text(given[place // request.n], job, model) for place, job in enumerate(jobs)]
    form = CompletionForm(
        *(model.name, model.fingerprint, seed, model.texts),
        with_logprobs=request.logprobs is not None,
        with_spikes=request.spike_details,
        prompts=[job.ids for job in jobs],
        offsets=[0 if request.echo else len(text) for text in texts],
    )
    begins = tuple(texts) if request.echo else ("",) * len(jobs)
    return Prepared(tuple(jobs), form, begins, sum(map(len, prompts)))


def prepare_chat(request: ChatRequest, model: LoadedModel, options: ServeOptions) -> Prepared:
    """Jobs of a chat, by the tokenizer's own template."""
    check_model(request.model, model)
    if model.tokenizer.chat_template is None:
        raise invalid(
            "messages",
            f"{model.name} has no chat template: it only continues text. Use /v1/completions.",
            "no_chat_template",
        )
    _check_number(request.n, options)
    messages = [message.as_template_input() for message in request.messages]
    try:
        text = model.tokenizer.apply_chat_template(messages)
        ids = prompt_ids(model.tokenizer, text, model.engine.vocabulary, special=False)
    except SpikeformersError as error:
        raise invalid("messages", str(error), "invalid_value") from None
    wanted = request.max_completion_tokens
    wanted = request.max_tokens if wanted is None else wanted
    room = model.context if wanted is None else wanted
    _check_length(ids, min(1, room), model, "messages")
    seed = _seed(request)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    jobs = [
        _job(request, ids, _shifted(seed, number), room, model, logprobs=logprobs)
        for number in range(request.n)
    ]
    form = ChatForm(
        *(model.name, model.fingerprint, seed, model.texts, request.logprobs),
        request.spike_details,
    )
    return Prepared(tuple(jobs), form, ("",) * request.n, len(ids))


def _separate(
    prompt: str | list[int] | list[str] | list[list[int]],
) -> Sequence[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


def _ids(prompt: str | list[int], model: LoadedModel) -> list[int]:
    """A prompt's tokens, of which text that is empty has one, as in `generate_text`."""
    rows = model.engine.vocabulary
    if isinstance(prompt, str):
        try:
            return prompt_ids(model.tokenizer, prompt, rows)
        except SpikeformersError as error:
            raise invalid("prompt", str(error), "invalid_value") from None
    if max(prompt) >= rows:
        raise invalid(
            "prompt",
            f"the prompt has the token {max(prompt)}, and the model has {rows} (from 0).",
            "invalid_value",
        )
    return prompt


def _job(
    request: Sampled,
    ids: Sequence[int],
    seed: int,
    max_new: int,
    model: LoadedModel,
    *,
    logprobs: int | None,
    prompt_logprobs: bool = False,
) -> Job:
    sampling = Sampling(
        *(request.temperature, request.top_k, request.top_p, request.min_p, seed),
        bias=_bias(request, model),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )
    details = request.spike_details
    stop = tuple(request.stops)
    return Job(tuple(ids), max_new, sampling, stop, logprobs, prompt_logprobs, details)


def _bias(request: Sampled, model: LoadedModel) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in request.logit_bias.items():
        plain = key.isascii() and key.isdecimal() and len(key) < 12
        if not plain or int(key) >= model.engine.vocabulary:
            raise invalid(
                "logit_bias",
                f"logit_bias has the key {key!r}; keys are tokens, from 0 to "
                f"{model.engine.vocabulary - 1}.",
                "invalid_value",
            )
        bias[int(key)] = value
    return bias


def _check_number(texts: int, options: ServeOptions) -> None:
    most = options.slots + options.max_queue
    if texts > most:
        raise invalid(
            "n",
            f"the request asks for {texts} texts, and this server holds {most} at once.",
            "too_many_texts",
        )


def _check_length(ids: Sequence[int], new: int, model: LoadedModel, param: str) -> None:
    if len(ids) + new > model.context:
        raise invalid(
            param,
            f"the prompt has {len(ids)} tokens, and the context is {model.context}, of which at "
            "least one must remain for new text. Shorten the prompt.",
            "context_length_exceeded",
        )


def _seed(request: Sampled) -> int:
    return secrets.randbelow(SEEDS) if request.seed is None else request.seed


def _shifted(seed: int, number: int) -> int:
    return (seed + number) % (LARGEST_SEED + 1)


def _prompt_text(prompt: str | list[int], job: Job, model: LoadedModel) -> str:
    if isinstance(prompt, str):
        return prompt
    return model.tokenizer.decode(job.ids, skip_special_tokens=False)
