"""The reference says what the schema says: the same keys, the same defaults, in both directions."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from authproxy.settings import places
from authproxy.settings.schema import Settings, json_schema
from authproxy.settings.shaping import STAND_INS
from authproxy.settings.wording import EXAMPLES

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*) \|$", REFERENCE, re.MULTILINE)
DEFAULTS = [
    (key, default.strip("`"))
    for key, _, default, _ in ROWS
    if default.startswith("`")
    and not key.endswith("routes[].accept")  # left open; authproxy.routing says what it means
]

SECRET: dict[str, Any] = {"file": "x"}
ONE_OF_EACH: dict[str, Any] = {
    "public_url": "https://a.example.com",
    "listen": {"tls": {"cert": "c", "key": "k"}, "drain": {}, "connections": {}},
    "store": {"redis": {"url": "redis://r"}},
    "session": {"cookie": {}},
    "providers": {"x": {"issuer": "https://i.example.com", "client_id": "c"}},
    "issuers": {"x": {"audiences": ["a"]}},
    "tokens": {"x": {"secrets": [SECRET]}},
    "certificates": {},
    "enrollment": {"tokens": {"x": {"secrets": [SECRET]}}, "credential": {}},
    "apps": {"x": {"upstream": {"url": "http://u"}, "routes": [{"path": "/", "policy": "p"}]}},
    "kubernetes": {"provider": "x", "clusters": {"x": {"server": "s", "audience": "a", "policy": "p"}}},
    "workspaces": {"x": {}},
    "forward_auth": {},
}


def test_the_reference_has_the_keys_of_the_schema() -> None:
    """No key is missing in the reference, and none in it is unknown."""
    assert sorted(key for key, *_ in ROWS) == sorted(set(places.every()))


def test_required_keys_are_marked() -> None:
    """What must be written is called required, and nothing else is."""
    wanted = {key for key, _, default, _ in ROWS if default == "required"}
    assert {key.rpartition(".")[2] for key in wanted} == set(EXAMPLES)


@pytest.mark.parametrize(("key", "default"), DEFAULTS)
def test_a_default_is_what_happens_without_the_key(key: str, default: str) -> None:
    """Writing the documented default changes nothing."""
    path = [
        int(step) if step.isdecimal() else step for step in key.replace("<name>", "x").replace("[]", ".0").split(".")
    ]
    written, left_out = copy.deepcopy(ONE_OF_EACH), copy.deepcopy(ONE_OF_EACH)
    inside(written, path[:-1])[path[-1]] = yaml.safe_load(default)
    inside(left_out, path[:-1]).pop(path[-1], None)
    assert Settings.model_validate(written) == Settings.model_validate(left_out)


def inside(data: Any, path: list[str | int]) -> Any:
    """What stands at ``path``."""
    for step in path:
        data = data[step]
    return data


def required(schema: dict[str, Any]) -> set[str]:
    """Every required key of a JSON Schema, by its name alone."""
    shapes = [schema, *schema["$defs"].values()]
    return {name for shape in shapes for name in shape.get("required", ())}


def test_every_required_key_has_an_example_and_a_stand_in() -> None:
    """A message about a missing key can always show how to write it, and the checks can always go on."""
    assert required(json_schema()) == set(EXAMPLES) == set(STAND_INS)
    for key, example in EXAMPLES.items():
        assert list(yaml.safe_load(example)) == [key]
