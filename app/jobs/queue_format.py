"""What the rows of the queue hold: JSON, and never a pickle, whatever a row says of itself."""

from __future__ import annotations

import json
from typing import Any

from dbos import Serializer


class JsonSerializer(Serializer):
    """Names of jobs and their states as JSON; by default DBOS pickles."""

    def serialize(self, data: Any) -> str:
        """As JSON text."""
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        """From JSON text."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """What a row says it is written with."""
        return "gradcast_json"


def refuse_pickles() -> None:
    """A row names its own format, and DBOS unpickles one that says `py_pickle`, whatever serializer it was given.

    Whoever may write to the queue's database could so run code in the worker. DBOS has no setting for it, so its unpickler is
    taken away in this process.
    """
    from dbos import _serialization

    def refuse(_self: object, _text: str) -> Any:
        raise TypeError("a row of the queue must hold JSON, but is a pickle instead. Remove it.")

    _serialization.DefaultSerializer.deserialize = refuse  # type: ignore[method-assign,assignment]
