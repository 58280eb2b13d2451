"""Which modules of a model are framed in its drawing."""

from __future__ import annotations

from fxcompress.views.summary import Summary

MOST_OF = 0.6
DEPTH = 2


def visible_groups(summary: Summary) -> dict[str, tuple[str, ...]]:
    """For each box, the modules to frame around it, from the outermost; at most two.

    A module is framed if it has two boxes or more, and not most of the boxes of what surrounds it, nor the same as a
    module in it: then a frame would say nothing. Repeated modules always are.
    """
    members: dict[str, set[str]] = {}
    for box in summary.boxes.values():
        parts = box.scope.split(".") if box.scope else []
        for i in range(len(parts)):
            members.setdefault(".".join(parts[: i + 1]), set()).add(box.name)
    shown: dict[str, tuple[str, ...]] = dict.fromkeys(summary.boxes, ())
    for scope in sorted(members, key=lambda s: s.count(".")):
        inside = members[scope]
        outer = shown[next(iter(inside))]
        around = len(members[outer[-1]]) if outer else len(summary.boxes)
        same = any(other.startswith(f"{scope}.") and members[other] == inside for other in members)
        telling = not same and 2 <= len(inside) <= MOST_OF * around and len(outer) < DEPTH
        if telling or scope in summary.repeats:
            shown |= {box: (*shown[box], scope) for box in inside}
    return shown
