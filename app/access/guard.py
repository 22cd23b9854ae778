"""Who may come in: key, scope, rate and host name of every request, before anything else looks at it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from app.access.audit import FILE as AUDIT_FILE
from app.access.audit import AuditLog
from app.access.keys import Key, KeyStore
from app.access.rates import TokenBucket
from app.access.scopes import PUBLIC, Scope, required_scopes
from app.errors import PROBLEMS, ProblemError
from app.settings import ServiceSettings, is_loopback

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="gradcast"'}
# These compute and keep nothing; they are in the audit log only where every request is.
_KEEP_NOTHING = frozenset({"/forecast", "/invocations", "/v1/timeseries/forecast", "/v2/forecast"})


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        name: Of the key; empty = no key was needed or given.
        scopes: What it may do.
        key: The key, if there is one.
    """

    name: str
    scopes: tuple[Scope, ...] = ()
    key: Key | None = None

    def knows(self, user: str | None) -> bool:
        """Whether this caller is told that something is a user's: its own, or anybody's with `admin`."""
        return Scope.ADMIN in self.scopes or (self.key is not None and self.key.name == user)


STRANGER = Caller("")
ANYBODY = Caller("anybody", tuple(Scope))


class Guard:
    """Admits or refuses requests, and keeps the audit log.

    Args:
        settings: Whether keys are needed, where they are, default rates.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.keys = KeyStore(settings.keys_directory)
        self.audit = AuditLog(settings.keys_directory / AUDIT_FILE)
        self._settings = settings
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._buckets: dict[str, TokenBucket] = {}
        # Once there was a key, an open service stays closed until it is started anew, whatever happens to the file.
        self._is_closed = settings.open == "never"

    @property
    def is_open(self) -> bool:
        """Whether everybody on this machine may do everything."""
        if self._settings.open == "until_keys" and not self._is_closed:
            self._is_closed = self.keys.has_keys
        return not self._is_closed

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who a request's headers say it is from.

        Raises:
            ProblemError: `key_missing` or `key_invalid`.
        """
        if self.is_open:
            return ANYBODY
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            detail = "Send a key as `Authorization: Bearer gradcast_...`. `gradcast keys create` makes one."
            raise ProblemError("key_missing", detail, headers=CHALLENGE)
        key = self.keys.find(token.strip())
        if key is None:
            detail = "The key must be an active one, but is unknown, revoked or expired instead. See `gradcast keys list`."
            raise ProblemError("key_invalid", detail, headers=CHALLENGE)
        return Caller(key.name, key.scopes, key)

    def needed_scopes(self, method: str, path: str) -> frozenset[Scope]:
        """The scopes of which a caller needs one; empty = nobody is asked who it is."""
        return PUBLIC if path == "/metrics" and self._settings.public_metrics else required_scopes(method, path)

    def validate_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Answer to known names only: a foreign page whose name was made to point here is still foreign.

        Raises:
            ProblemError: `host_not_allowed`.
        """
        if not self._hosts and not self.is_open:
            return
        name = _host_name(headers.get(b"host", b""))
        if not (name in self._hosts or "*" in self._hosts or (not self._hosts and is_loopback(name))):
            detail = "The Host header must be a name the service knows; GRADCAST_ALLOWED_HOSTS lists them."
            raise ProblemError("host_not_allowed", detail)

    def validate_allowed(self, caller: Caller, needed: frozenset[Scope]) -> None:
        """Whether this caller may do this, and now.

        Raises:
            ProblemError: `scope_missing` or `rate_limited`.
        """
        if needed.isdisjoint(caller.scopes):
            names = " or ".join(f"`{scope}`" for scope in Scope if scope in needed)
            raise ProblemError("scope_missing", f"This must be asked with a key of scope {names}.")
        if caller.key is not None:
            self._take_turn(caller.key)

    def note_refusal(self, caller: Caller, action: str, problem: ProblemError, request_id: str | None = None) -> None:
        """Put a refusal into the audit log."""
        outcome = PROBLEMS[problem.code].status
        self.audit.write(_who(caller), action, outcome, is_refusal=True, code=problem.code, request_id=request_id)

    def note_answer(self, caller: Caller, method: str, path: str, status: int, request_id: str | None = None) -> None:
        """Put what was done into the audit log: changes, or every request."""
        is_change = method not in ("GET", "HEAD", "OPTIONS") and path not in _KEEP_NOTHING
        if is_change or self._settings.audit == "all":
            self.audit.write(_who(caller), f"{method} {path}", status, request_id=request_id)

    def _take_turn(self, key: Key) -> None:
        rate = key.requests_per_second or self._settings.key_requests_per_second
        if rate is None:
            return
        # A rate of its own without a burst: what a second brings.
        burst = key.burst or (math.ceil(rate) if key.requests_per_second is not None else self._settings.key_burst)
        bucket = self._buckets.get(key.id)
        if bucket is None:
            bucket = self._buckets[key.id] = TokenBucket(rate, burst)
        wait_seconds = bucket.take()
        if wait_seconds > 0.0:
            detail = f"This key may send {rate:g} requests per second, {burst} at once."
            raise ProblemError("rate_limited", detail, headers={"Retry-After": str(math.ceil(wait_seconds))})


def _who(caller: Caller) -> dict[str, str | None]:
    return {"name": caller.name or None, "key_id": caller.key.id if caller.key is not None else None}


@lru_cache(1024)
def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    name, _, port = text.rpartition(":")
    return name if name and port.isdecimal() and (":" not in name or name.endswith("]")) else text
