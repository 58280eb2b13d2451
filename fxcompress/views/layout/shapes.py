"""What a layout is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """A box to place: its size, the room that wires need free right above and below it, its groups from the outermost."""

    name: str
    width: float
    height: float
    above: float = 0.0
    below: float = 0.0
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Net:
    """A value: the box that gives it, and those that read it (again for each use).

    `entries` are the widths that each use needs where it enters its reader, `reference` that of a mention of the value.
    """

    source: str
    targets: tuple[str, ...]
    entries: tuple[float, ...] = ()
    reference: float = 60.0


@dataclass(frozen=True)
class Rect:
    """A rectangle: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def overlaps(self, other: Rect) -> bool:
        """Whether the insides of both have a point in common."""
        apart = self.right <= other.x or other.right <= self.x or self.bottom <= other.y or other.bottom <= self.y
        return not apart

    def holds(self, other: Rect) -> bool:
        """Whether `other` lies within."""
        within = self.x <= other.x and other.right <= self.right
        return within and self.y <= other.y and other.bottom <= self.bottom

    def moved(self, dx: float, dy: float) -> Rect:
        return Rect(self.x + dx, self.y + dy, self.width, self.height)


@dataclass(frozen=True)
class Stretch:
    """A vertical piece of a route."""

    x: float
    top: float
    bottom: float

    def moved(self, dx: float, dy: float) -> Stretch:
        return Stretch(self.x + dx, self.top + dy, self.bottom + dy)


@dataclass(frozen=True)
class Route:
    """The way of one use of a net: vertical stretches, to be joined by smooth curves.

    `detour` has the corners of the way through the gutter to the next column; it follows stretch number `turn`.
    """

    net: int
    use: int
    stretches: tuple[Stretch, ...]
    turn: int | None = None
    detour: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Frame:
    """The background of a group in one column; `again` where a column before has a part of it."""

    group: str
    rect: Rect
    depth: int
    again: bool


@dataclass
class Layout:
    """Where everything stands; the drawing spans (0, 0) to (width, height)."""

    boxes: dict[str, Rect] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    references: dict[tuple[int, int], Rect] = field(default_factory=dict)
    """By (net, use): the mention that stands for a wire that was cut."""
    frames: list[Frame] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0
