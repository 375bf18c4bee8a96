"""Where the nodes of a workflow stand: columns within groups, groups within rows."""

from collections.abc import Sequence
from typing import Any

from .workflow_nodes import TEXT_WIDTH, WIDTH, Group, Node, ObjectInfo, has_seed_control, slots_of

TITLE, BADGE = 30, 20  # above a node's box: its title bar, the name of its pack
SLOT, WIDGET = 20, 24  # heights that the page gives a socket and a widget
TEXT = 60  # the least height of a text box
COLUMN_GAP, ROW_GAP = 60, 40  # between nodes
PADDING, HEADING = 30, 50  # between a group's frame and its nodes; its heading
GROUP_GAP = 50


def size_of(item: Node, info: ObjectInfo) -> tuple[int, int]:
    """Width and height of the node's box, advanced widgets folded away (web/detex.js)."""
    if item.size:
        return item.size
    sockets, widgets = slots_of(item, info)
    slots = max(len(sockets), len(info[item.type]["output"]))
    shown = [(name, options) for name, _, options in widgets if not options.get("advanced")]
    texts = sum(bool(options.get("multiline")) for _, options in shown)
    added = sum(has_seed_control(name, options) for name, options in shown)
    added += sum(bool(options.get("image_upload")) for _, options in shown)
    height = SLOT * slots + 6
    if shown:
        height += WIDGET * (len(shown) - texts + added) + (TEXT + 4) * texts + 8
    return (TEXT_WIDTH if texts else WIDTH), height


def lay_out(
    rows: Sequence[Sequence[Group]], info: ObjectInfo
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]:
    """The groups' frames, and where each node stands."""
    frames, places, top = [], {}, 0
    for row in rows:
        left, heights = 0, []
        for group in row:
            width, height = _place_group(group, left, top, info, places)
            frames.append(
                {
                    "id": len(frames) + 1,
                    "title": group.title,
                    "bounding": [left, top, width, height],
                    "color": group.colour,
                    "font_size": 24,
                    "flags": {},
                }
            )
            left += width + GROUP_GAP
            heights.append(height)
        for frame in frames[-len(row) :]:
            frame["bounding"][3] = max(heights)
        top += max(heights) + GROUP_GAP
    return frames, places


def _place_group(
    group: Group, left: int, top: int, info: ObjectInfo, places: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """Stand the group's nodes in columns; -> its width and height."""
    x, bottom = left + PADDING, top
    for column in group.columns:
        y = top + HEADING
        for item in column:
            y += TITLE + BADGE
            places[item.name] = (x, y)
            y += size_of(item, info)[1] + ROW_GAP
        bottom = max(bottom, y - ROW_GAP + PADDING)
        x += max(size_of(item, info)[0] for item in column) + COLUMN_GAP
    return x - COLUMN_GAP + PADDING - left, bottom - top
