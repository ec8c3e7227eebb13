"""Checks a call's parameters against the Proxmox VE schema, with a real node's texts of refusal.

`schema.json` beside this file holds only the calls that localpve implements, cut from the published schema by
tests/vectors/proxmox/make_vectors.py. Pure; called by `api` for every request, after authentication and permissions.
"""

import json
import re
from pathlib import Path
from typing import Any

from myphr.localpve import formats
from myphr.localpve.replies import ParameterErrors, failure

_INDEXED = re.compile(r"(.*?)\[n\]$")
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
EXTRA = "property is not defined in schema and the schema does not allow additional properties"
MISSING = "property is missing and it is not optional"


class Schema:
    """The implemented calls. `find(method, path)` gives the path's template and its variables."""

    def __init__(self, text: str | None = None) -> None:
        raw = json.loads(text or Path(__file__).with_name("schema.json").read_text())
        self.formats: dict[str, dict] = {name: _expand(form) for name, form in raw["formats"].items()}
        self.calls: dict[str, dict] = raw["calls"]
        for call in self.calls.values():
            call["parameters"] = _expand(call["parameters"])
        self._routes = [(*name.split(" ", 1), _pattern(name.split(" ", 1)[1])) for name in self.calls]

    def find(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        for known, template, pattern in self._routes:
            if known == method and (match := pattern.fullmatch(path)):
                return template, match.groupdict()
        return None

    def check(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Typed parameters of call `name` ("GET /version"). Raises ParameterErrors with one text per wrong one."""
        errors: dict[str, str] = {}
        checked = self._check_object(self.calls[name]["parameters"], given, errors, "")
        if errors:
            raise ParameterErrors(errors)
        return checked

    def _check_object(self, schema: dict, given: dict[str, Any], errors: dict[str, str], prefix: str) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for key, value in given.items():
            if key not in schema:
                errors[prefix + key] = EXTRA
                continue
            rule = schema[key]
            if (needed := rule.get("requires")) and needed not in given:
                errors[prefix + needed] = f"missing property - '{key}' requires this property"
            before = len(errors)
            typed = self._check_value(rule, value, prefix + key, errors)
            if len(errors) == before:
                checked[key] = typed
        for key, rule in schema.items():
            if key not in given and not rule.get("optional") and "alias" not in rule:
                errors[prefix + key] = MISSING
        return checked

    def _check_value(self, rule: dict, value: Any, key: str, errors: dict[str, str]) -> Any:
        kind = rule.get("type", "string")
        if kind == "array":
            items = value if isinstance(value, list) else [value]
            return [str(item) for item in items]
        if value is None:
            raise failure(f"unable to parse value of '{key}' - got undefined value")
        if isinstance(value, list):  # a JSON array for a list-valued string
            value = ";".join(str(item) for item in value)
        if isinstance(value, bool):
            if kind != "boolean":
                errors[key] = f"type check ('{kind}') failed - got JSON::PP::Boolean"
                return None
            return int(value)
        text = str(value)
        typed: Any = text
        if kind == "integer":
            if not _INTEGER.fullmatch(text):
                errors[key] = f"type check ('integer') failed - got '{text}'"
                return None
            typed = int(text)
        elif kind == "number":
            if not _NUMBER.fullmatch(text):
                errors[key] = f"type check ('number') failed - got '{text}'"
                return None
            typed = float(text)
        elif kind == "boolean":
            if text not in ("0", "1"):
                errors[key] = f"type check ('boolean') failed - got '{text}'"
                return None
            typed = int(text)
        if (problem := self._format_problem(rule, key, text)) is not None:
            errors[key] = f"invalid format - {problem}"
        elif (problem := _limit_problem(rule, text, typed)) is not None:
            errors[key] = problem
        return typed

    def _format_problem(self, rule: dict, key: str, text: str) -> str | None:
        form = rule.get("format")
        if form is None:
            return None
        if form not in self.formats:
            try:
                formats.check(form, text)
            except formats.FormatError as problem:
                return str(problem)
            return None
        option = key.rsplit(".", 1)[-1]
        nested = self.formats[form]
        problems: dict[str, str] = {}
        try:
            given = formats.parse_properties(text, formats.default_key(option))
        except formats.FormatError as problem:
            return f"format error\n{key}: {problem}"
        # "virtio=MAC" says two things at once: the model, and the MAC under the model's name.
        for alias in [k for k in given if "alias" in nested.get(k, {})]:
            target = nested[alias]["alias"]
            if target == "macaddr":
                given["model"] = alias
            given[target] = given.pop(alias)
        self._check_object(nested, given, problems, f"{key}.")
        if problems:
            return "format error\n" + "".join(f"{k}: {v}\n" for k, v in problems.items())
        return None


def _limit_problem(rule: dict, text: str, typed: Any) -> str | None:
    if "enum" in rule and text not in rule["enum"]:
        return f"value '{text}' does not have a value in the enumeration '{', '.join(rule['enum'])}'"
    if "pattern" in rule and not re.fullmatch(rule["pattern"].replace("(?^:", "(?:"), text):
        return f"value does not match the regex pattern '{rule['pattern']}'"
    if len(text) > rule.get("maxLength", len(text)):
        return f"value may only be {rule['maxLength']} characters long"
    if len(text) < rule.get("minLength", 0):
        return f"value must be at least {rule['minLength']} characters long"
    if rule.get("type") in ("integer", "number"):
        if "min" in rule and typed < rule["min"]:
            return f"value must have a minimum value of {rule['min']}"
        if "max" in rule and typed > rule["max"]:
            return f"value must have a maximum value of {rule['max']}"
    return None


def _expand(parameters: dict[str, dict]) -> dict[str, dict]:
    """`net[n]` with index 0..31 becomes net0 ... net31."""
    expanded: dict[str, dict] = {}
    for name, rule in parameters.items():
        if match := _INDEXED.match(name):
            first, last = rule["index"]
            expanded.update({f"{match[1]}{number}": rule for number in range(first, last + 1)})
        else:
            expanded[name] = rule
    return expanded


def _pattern(template: str) -> re.Pattern[str]:
    # A volume id holds slashes and colons, and always comes last.
    text = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] == 'volume' else '[^/]+'})", template)
    return re.compile(text)
