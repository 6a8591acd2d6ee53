"""A plan as text for people, and as data for programs."""

from __future__ import annotations

import json
from typing import Any

import click

from .deploy_plan import Field, Plan, Step

__all__ = ["plan_as_dict", "render_plan"]

_MARKS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def render_plan(plan: Plan) -> str:
    """One line for each record that changes, one below it for each field; coloured (``click.echo`` drops the colours
    where there is no terminal)."""
    lines = []
    for step in plan.steps:
        mark, colour = _MARKS[step.action]
        lines.append(click.style(f"{mark} {step.kind} {_clean(step.name)}", fg=colour))
        width = max((len(field.name) for field in step.fields), default=0)
        lines += [f"    {_clean(field.name):<{width}}  {_field(step, field)}" for field in step.fields]
    if plan.unchanged:
        lines.append(f"= {len(plan.unchanged)} as they should be: {_keys(plan.unchanged)}")
    if plan.left:
        lines.append(f"  not in the file and left alone: {_keys(plan.left)} (--prune removes them)")
    return "\n".join(lines)


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """changes (action, kind, name, fields with their value before and after), unchanged, not_in_file."""
    return {
        "changes": [
            {
                "action": step.action,
                "kind": step.kind,
                "name": step.name,
                "fields": [
                    {"field": field.name, "before": field.before, "after": field.after} for field in step.fields
                ],
            }
            for step in plan.steps
        ],
        "unchanged": plan.unchanged,
        "not_in_file": plan.left,
    }


def _field(step: Step, field: Field) -> str:
    if step.action == "add":
        return click.style(_value(field.after), fg="green")
    before = click.style(_value(field.before), fg="red") if field.before is not None else "(none)"
    after = click.style(_value(field.after), fg="green") if field.after is not None else "(none)"
    return f"{before} -> {after}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _clean(text if len(text) <= 200 else text[:199] + "…")


def _keys(keys: list[str]) -> str:
    shown = ", ".join(_clean(key.replace("/", " ", 1)) for key in keys[:8])
    return shown + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def _clean(text: str) -> str:
    """Nothing that controls the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
