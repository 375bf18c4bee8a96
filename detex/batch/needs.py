"""What a server must have for the jobs of a table, told before it is given any."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from .api_prompt import ObjectInfo, schema_inputs
from .job import Job
from .outbox import Sent
from .values import choices_of
from .workflow import Input, Prompt

Choice = tuple[str, str, str]  # node type, input, file or option


class Needs(NamedTuple):
    nodes: frozenset[str] = frozenset()
    choices: frozenset[Choice] = frozenset()  # checkpoints, concepts, samplers...
    files: tuple[Sent, ...] = ()  # sent where they are not


def needs_of(
    base: Prompt, jobs: Iterable[Job], inputs: list[Input], files: Iterable[Sent]
) -> Needs:
    """inputs: the workflow's. What is sent is not asked for."""
    sent = tuple(files)
    arriving = {file.name for file in sent}
    lists = {i.place: i.class_type for i in inputs if choices_of(i.kind, i.options) is not None}
    values = set()
    for settings in [job.settings for job in jobs] or [{}]:
        values |= {(p, settings.get(p, base[p[0]]["inputs"].get(p[1]))) for p in lists}
    choices = {
        (lists[place], place[1], value)
        for place, value in values
        if isinstance(value, str) and value not in arriving
    }
    return Needs(frozenset(node["class_type"] for node in base.values()), frozenset(choices), sent)


def lacking(needs: Needs, info: ObjectInfo) -> list[str]:
    """What a server with these nodes does not have, in words."""
    missing = sorted(needs.nodes - info.keys())
    lines = [f"it has no node named {', '.join(missing)}"] if missing else []
    for node, name, value in sorted(needs.choices):
        offered = _offered(info.get(node), name)
        if offered is not None and value not in offered:
            lines.append(f'it lacks "{value}" ({node}.{name})')
    return lines


def _offered(node: dict[str, Any] | None, name: str) -> list[Any] | None:
    """What this input's list has; None where it is no list."""
    for key, spec in schema_inputs(node["input"]) if node else ():
        if key == name:
            return choices_of(spec[0], spec[1] if len(spec) > 1 else {})
    return None
