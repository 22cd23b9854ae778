"""YAML from people: data only, and bounded before anything is built from it.

A few hundred bytes of YAML can stand for a billion values (an anchor that repeats an anchor), and its scanner takes quadratic
time for brackets within brackets. So size, depth and the number of values after repeating are limited here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 100_000
# What `read_yaml` raises. Beside bad syntax: a date that does not exist, nesting without end.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, RecursionError)


class _BoundedLoader(yaml.SafeLoader):
    """Refuses depth while it scans, when it still costs nothing."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803  the name in the class above
        self._validate_depth()
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._validate_depth()
        return super().add_indent(column)

    def _validate_depth(self) -> None:
        if self.flow_level + len(self.indents) >= MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")


def read_yaml_file(path: Path) -> Any:
    """Read a file of one YAML document; no more of it than the limit.

    Raises:
        OSError: If it cannot be read.
        UNREADABLE_YAML: As `read_yaml`.
    """
    with path.open("rb") as stream:
        return read_yaml(stream.read(MAX_YAML_BYTES + 1).decode("utf-8"))


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.

    Returns:
        Mappings, sequences and scalars; None if it is empty.

    Raises:
        UNREADABLE_YAML: If it is no YAML, names a type that is not data, or is larger, deeper or fuller than the limits.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f"more than {MAX_YAML_BYTES} bytes")
    loader = _BoundedLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {}, frozenset())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counted: dict[int, int], above: frozenset[int]) -> int:
    """How many values a node stands for, repeated ones counted as often as they are repeated."""
    if id(node) in counted:
        return counted[id(node)]
    if id(node) in above:
        raise yaml.YAMLError("a value that contains itself")
    inside = above | {id(node)}
    total = 1 + sum(_count_values(child, counted, inside) for child in _children(node))
    if total > MAX_VALUES:
        raise yaml.YAMLError(f"more than {MAX_VALUES} values")
    counted[id(node)] = total
    return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
