"""Plain values (YAML, overrides) to frozen dataclasses, strictly.

In: nested mappings and lists, and a dataclass with type hints. Out: an instance, all its own checks passed.
What always holds: an unknown key is refused with the nearest known one, a value of the wrong type with the
type wanted, a missing one by name; keys are dotted (`phases.0.steps`) wherever they are named.

Example:
    build(Phase, {"shards": "S", "steps": 3, …}, "phases.0")
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import IO, Any

import yaml

from pipeline.errors import InputError


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_yaml(source: IO[bytes] | str) -> Any:
    """The plain values of a YAML document. Raises yaml.YAMLError, or ValueError for what is no UTF-8 or no date."""
    return yaml.load(source, Loader=_UniqueKeys)


def apply_override(value: dict[str, Any], override: str) -> None:
    """Set in `value` what `key=value` says, the key dotted.

    Raises InputError where the key leads nowhere or the value is no YAML.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise InputError(f"{override!r} is no override; write key=value, e.g. phases.0.steps=12")
    try:
        leaf = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise InputError(f"the value of {override!r} is no YAML") from error
    *parents, last = name.split(".")
    try:
        owner: Any = reduce(_step_into, parents, value)
        if isinstance(owner, list):
            owner[int(last)] = leaf
        else:
            owner[last] = leaf
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{name} names nothing in the recipe; a list's items are numbered from 0") from error


def _step_into(owner: Any, name: str) -> Any:
    if isinstance(owner, list):
        return owner[int(name)]
    if owner.get(name) is None:
        owner[name] = {}
    return owner[name]


def values_at(value: Any, name: str) -> list[Any]:
    """What stands at a dotted key; `*` stands for every item of a list.

    Raises InputError where the key leads nowhere.
    """
    found = [value]
    for part in name.split("."):
        try:
            found = [
                inner
                for owner in found
                for inner in (
                    owner if part == "*" else [owner[int(part) if isinstance(owner, list) else part]]
                )
            ]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise InputError(
                f"{name} names nothing in the recipe; a list's items are numbered from 0"
            ) from error
    return found


def build(kind: type, value: Any, where: str) -> Any:
    """An instance of the dataclass `kind` from plain values; `where` is the dotted key that leads here.

    Raises InputError on unknown, missing or mistyped keys, and on what `kind` itself refuses.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{where or 'a recipe'} is {value!r}; it must hold keys")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.0)
            raise InputError(f"unknown key {prefix}{name}; the nearest known is {prefix}{near[0]}")
    for name, item in fields.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise InputError(f"{prefix}{name} is missing")
    built = {name: _convert(hints[name], value[name], prefix + name) for name in fields if name in value}
    try:
        return kind(**built)
    except InputError as error:
        raise InputError(f"{prefix}{error}" if where else str(error)) from None


def unshared(value: Any) -> Any:
    """`value` with every list and mapping its own: a YAML alias is one object in two places."""
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or an InputError that names both."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in typing.get_args(hint):
            return None
        kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        is_mapping = isinstance(value, Mapping)
        if len(kinds) > 1 and not isinstance(value, str) and not is_mapping:
            raise InputError(f"{where} is {value!r}; it must be text, or hold names with a number each")
        return _convert(
            next((arg for arg in kinds if _holds_keys(arg) == is_mapping), kinds[0]), value, where
        )
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}; it must be a list")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, f"{where}.{index}") for index, item in enumerate(value))
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise InputError(f"{where} is {value!r}; known: {', '.join(map(str, typing.get_args(hint)))}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} is {value!r}; it must hold keys")
        inner = typing.get_args(hint)[1]
        return {str(name): _convert(inner, item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), {} if value is None else value, where)
    if hint is float and isinstance(value, str):
        # YAML reads 1e-4, without a dot, as text.
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where} is {value!r}; it must be {_TYPE_WORDS[hint]}")
    return value


_TYPE_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _holds_keys(hint: Any) -> bool:
    return typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint)


def at_least(name: str, value: int, least: int) -> None:
    """Raise InputError where `value` is below `least`."""
    if value < least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


def one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    """Raise InputError where `value` is none of `known`."""
    if value not in known:
        raise InputError(f"{name} is {value!r}; known: {', '.join(map(str, known))}")
