"""Options of the server, checked before anything starts."""

from __future__ import annotations

import importlib.util
import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spikeformers.errors import ConfigError, UsageError

KEY_VARIABLE = "SPIKEFORMERS_API_KEY"
"""The environment variable that may hold the API key."""
PACKAGES = ("fastapi", "uvicorn", "pydantic", "prometheus_client")
MOST_SLOTS = 1024
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served. Raises ConfigError or UsageError for what cannot be."""

    model: str | Path
    """Engine file, or model folder, which is packed first."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    threads: int | None = None
    """Threads of the engine; None: all processors."""
    slots: int = 8
    """Texts that are written at once."""
    context: int | None = None
    """Longest text in tokens, prompt included; None: the model's own."""
    weights: str = "fp32"
    """Number format for a model folder; an engine file has its own."""
    api_key: str | None = None
    no_auth: bool = False
    """Serve other machines without a key."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the server, or "*"."""
    max_queue: int = 64
    """Texts that wait for a slot; beyond them the answer is 429."""
    timeout: float = 600.0
    """Seconds until a request is given up, waiting included."""
    prefix_cache: int = 256 * MEBIBYTE
    """Bytes of the cache of prompts that were read; 0: none."""
    max_body: int = 4 * MEBIBYTE
    """Bytes of a request's body."""
    grace: float = 5.0
    """Seconds that running requests have to finish after Ctrl-C."""

    def __post_init__(self) -> None:
        _in_range("port", self.port, 0, 65535)
        _in_range("slots", self.slots, 1, MOST_SLOTS)
        _in_range("max_queue", self.max_queue, 0, None)
        _in_range("prefix_cache", self.prefix_cache, 0, None)
        _in_range("max_body", self.max_body, 1024, None)
        if self.context is not None:
            _in_range("context", self.context, 2, None)
        for name, seconds in (("timeout", self.timeout), ("grace", self.grace)):
            if not (math.isfinite(seconds) and seconds >= 0) or (name == "timeout" and not seconds):
                raise ConfigError(f"{name} is {seconds}; it must be a number of seconds above 0.")
        if self.api_key is not None and not _is_key(self.api_key):
            raise ConfigError(
                "the API key must be printable ASCII without spaces, since it travels in a header."
            )
        if self.api_key is not None and self.no_auth:
            raise ConfigError("an API key and no_auth contradict each other; give one of them.")
        if self.api_key is None and not self.no_auth and not is_loopback(self.host):
            raise UsageError(
                f"the host {self.host} can be reached by other machines, and no API key is given: "
                f"anyone there could use the model. Give --api-key or set {KEY_VARIABLE}, or "
                "--no-auth to serve without one."
            )


def key_from(given: str | None, environment: Mapping[str, str] | None = None) -> str | None:
    """The API key given, or that of the environment; an empty one is none."""
    environment = os.environ if environment is None else environment
    return (given if given is not None else environment.get(KEY_VARIABLE)) or None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_extra() -> None:
    """Raise UsageError unless the packages of the extra ``serve`` are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the server needs {', '.join(missing).replace('_', '-')}: "
            "pip install 'spikeformers[serve]'"
        )


def _in_range(name: str, value: int, least: int, most: int | None) -> None:
    if not isinstance(value, int) or value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {value!r}; it must be a whole number {limit}.")


def _is_key(key: str) -> bool:
    return bool(key) and all(33 <= ord(character) <= 126 for character in key)
