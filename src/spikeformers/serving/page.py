"""The page at / : one file, in which only its own script and styles may run."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from starlette.responses import Response

from spikeformers.serving.problems import Problem

_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)


def page_response() -> Response:
    """The page, or Problem 404 if this build has none."""
    content, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


@cache
def _page() -> tuple[bytes, str]:
    file = resources.files("spikeformers.serving") / "page.html"
    if not file.is_file():
        raise Problem(404, "this build has no page.")
    content = file.read_bytes()
    return content, policy_of(content)


def policy_of(content: bytes) -> str:
    """A Content-Security-Policy that allows the inline scripts and styles of a page, by digest.

    Nothing is fetched but from this server; nothing embeds the page.
    """
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for tag, text in _INLINE.findall(content):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        allowed[tag.decode().lower()].append(f"'sha256-{digest}'")
    parts = {
        "default-src": ["'none'"],
        "script-src": allowed["script"] or ["'none'"],
        "style-src": allowed["style"] or ["'none'"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in parts.items())
