"""Every error that fxcompress raises on purpose: what was wrong, where, and what to do next."""

from __future__ import annotations

import difflib
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.fx


_LONGEST = 100
"""Characters of a value that a message shows."""


class FxCompressError(Exception):
    """The root of all errors raised on purpose."""


class InputError(FxCompressError, ValueError):
    """An argument, example input or calibration batch cannot be used as given."""


class ConfigError(InputError):
    """A configuration cannot be read or written as it is; names the file, the line and the key."""


class CaptureError(FxCompressError):
    """The model cannot be traced into a graph."""


class DialectError(FxCompressError):
    """A graph holds something that the dialect does not allow."""


class PatternError(FxCompressError, ValueError):
    """A pattern or rule is malformed; raised when it is defined."""


class MatchBudgetError(FxCompressError):
    """A search took more steps than its budget allows."""


class RuleError(FxCompressError):
    """A rule's builder failed or returned something unusable while rewriting."""


class PlanError(FxCompressError, ValueError):
    """The passes cannot run in the order they are listed."""


class PassError(FxCompressError, TypeError):
    """A pass does not keep to the contract of passes."""


class VerificationError(FxCompressError):
    """A pass broke its declared promise, or a file does not compute what the model does."""


class FileWarning(UserWarning):
    """The file of a model cannot be written, or computes something else in its runtime than the model does."""


class ScheduleWarning(UserWarning):
    """A file is written with less compression than was asked for, since its schedule was never stepped."""


class CalibrationError(FxCompressError):
    """The calibration data gives no usable ranges."""


class TrainingWarning(UserWarning):
    """A model does something in training that its compiled form does not; says what, and where in the model's source."""


class PartialCaptureWarning(UserWarning):
    """A model was compiled in parts, since it cannot be captured as a whole; says why, and what to do."""


class BranchWarning(UserWarning):
    """A question that a model asks about masks or flags is answered once for all, as the example inputs answer it."""


class ScopeError(FxCompressError, ValueError):
    """A scope matches nothing in the model."""


class TrainingError(FxCompressError):
    """A training loop asks for something before its time."""


class CheckpointError(FxCompressError, ValueError):
    """A checkpoint is of another model or other passes, or is none."""


class EmitError(FxCompressError):
    """The graph cannot be written in the target format."""


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn of the line outside this package that called into it, however many of the package's calls lie between."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def unreadable(lead: str, how: str) -> Iterator[None]:
    """The block reads what others wrote with a library of others: whatever that raises is an `InputError` of these words.

    A file that is damaged can be anything inside, and no list of errors is all that a parser raises on it.
    """
    try:
        yield
    except FxCompressError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{lead}: {reason or type(error).__name__}; {how}") from error


def source_line(node: torch.fx.Node) -> str:
    """The user's own source line behind `node`, as ``file:line: code``; ``"no source recorded"`` where unknown.

    The innermost frame of the recorded stack trace that lies outside torch itself.
    """
    frames = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines()]
    for place, code in reversed(list(itertools.pairwise(frames))):
        if place.startswith("File ") and "/torch/" not in place:
            path, _, rest = place.removeprefix('File "').partition('", line ')
            return f"{path}:{rest.split(',')[0]}: {code}"
    return "an input of the model" if node.op == "placeholder" else "no source recorded"


def describe(node: torch.fx.Node) -> str:
    """`node` as a reader of the model would look for it: its name, scope and source line."""
    scope = node.meta.get("scope")
    where = f" in {scope!r}" if scope else ""
    return f"{node.name}{where} ({source_line(node)})"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A clause that suggests the names in `known` closest to `name`, to go behind it in a message; else nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5) if isinstance(name, str) else []
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def shown(value: object) -> str:
    """`value` as it prints, or what kind of thing it is where that is long, or it does not print."""
    try:
        text = repr(value)
    except Exception:  # of the value's own
        text = ""
    return text if 0 < len(text) <= _LONGEST and "\n" not in text else f"a {type(value).__name__}"


def apart(found: float, asked: float, form: str = ".3g") -> tuple[str, str]:
    """Two numbers that differ, in the format `form`, with as many digits more as show it."""
    kind, least = form[-1], int(form[1:-1])
    texts = ((f"{found:.{digits}{kind}}", f"{asked:.{digits}{kind}}") for digits in range(least, least + 17))
    return next((pair for pair in texts if pair[0] != pair[1]), (repr(found), repr(asked)))
