"""Parameters for an optimizer in groups: what compression trains is not pulled to zero, and has a learning rate of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor, nn

from fxcompress.binarization.binarizers import Binarizer
from fxcompress.errors import InputError
from fxcompress.masks import Mask
from fxcompress.options import check_arguments
from fxcompress.quantizers.quantizer import Quantizer

Group = dict[str, Any]
"""``{"params": [...], "lr": ..., ...}``, as torch's optimizers take it."""


@check_arguments()
def parameter_groups(
    model: nn.Module,
    groups: Iterable[Any] | None = None,
    *,
    lr: Annotated[float, Ge(0)] | Tensor | None = None,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    multiplier: Annotated[float, Ge(0)] = 1.0,
) -> list[Group]:
    """The parameters of a compressed `model` for an optimizer, without weight decay on ranges, thresholds and mask logits.

    Weight decay pulls weights to zero, which is no value that a range tends to.

    Args:
        groups: what a recipe made of the model's parameters, groups or parameters; those of compression are taken out of each.
            None for all parameters that are trained, in one group.
        lr: of groups that have none of their own; the optimizer's own, where it is None.
        weight_decay: of groups that have none of their own.
        multiplier: what the learning rate of compression is multiplied by. Of optimizers that scale gradients themselves, such
            as Adam; `TrainQuantizers(learning_rate_multiplier=...)` scales the gradients, which they undo.

    Raises:
        InputError: `multiplier` is below 0, or there is no learning rate to multiply.
    """
    own = {id(parameter) for parameter in _of_compression(model)}
    defaults: Group = {"weight_decay": weight_decay} | ({} if lr is None else {"lr": lr})
    given = [parameter for parameter in model.parameters() if parameter.requires_grad] if groups is None else list(groups)
    made: list[Group] = []
    seen: set[int] = set()
    for group in _as_groups(given):
        group = defaults | group
        seen |= {id(parameter) for parameter in group["params"]}
        made += _split(group, own, multiplier)
    missing = [p for p in _of_compression(model) if id(p) not in seen and p.requires_grad]
    rest = defaults | {"params": missing}
    if any("param_names" in group for group in made):  # optimizers want names of all or of none
        name_of = {id(parameter): name for name, parameter in model.named_parameters()}
        rest["param_names"] = [name_of[id(parameter)] for parameter in missing]
    return made + (_split(rest, own, multiplier) if missing else [])


def _of_compression(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that passes inserted, each once."""
    found = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, (Quantizer, Mask, Binarizer))
        for parameter in module.parameters()
    }
    yield from found.values()


def _as_groups(given: list[Any]) -> list[Group]:
    wrong = [one for one in given if not isinstance(one, Tensor if isinstance(given[0], Tensor) else Mapping)]
    if wrong or any("params" not in one for one in given if isinstance(one, Mapping)):
        shown = type(wrong[0]).__name__ if wrong else "a dict without 'params'"
        raise InputError(f"groups are parameters, or dicts with 'params' as optimizers take them, not {shown}")
    if given and isinstance(given[0], Tensor):
        return [{"params": given}]
    return [dict(group) | {"params": list(group["params"])} for group in given]


def _split(group: Group, own: set[int], multiplier: float) -> list[Group]:
    """`group` without what compression trains, and that in a group behind it; those that hold something."""
    others = [parameter for parameter in group["params"] if id(parameter) not in own]
    ours = [parameter for parameter in group["params"] if id(parameter) in own]
    behind = group | {"params": ours, "weight_decay": 0.0}
    if ours and multiplier != 1:
        if "lr" not in group:
            raise InputError("a multiplier needs a learning rate to multiply: parameter_groups(model, lr=..., multiplier=...)")
        behind["lr"] = group["lr"] * multiplier
    if "param_names" in group:
        names = dict(zip(map(id, group["params"]), group["param_names"]))
        group = group | {"param_names": [names[id(parameter)] for parameter in others]}
        behind["param_names"] = [names[id(parameter)] for parameter in ours]
    return [one for one in (group | {"params": others}, behind) if one["params"]]
