"""A random network and its stack as data, and as the short script that it stands for."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from string import Formatter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.random_stacks.operations import OPERATIONS

LARGEST = 6000
"""Elements of a value, of one sample."""


class UnfitError(Exception):
    """The program is not one: PyTorch refuses it, or a value loses the batch, is no float or too large."""


@dataclass(frozen=True)
class Step:
    """One operation on earlier values; `shared` names the step whose layer it takes, if not its own."""

    operation: str
    sources: tuple[int, ...]
    choices: dict[str, Any]
    shared: int | None = None


@dataclass(frozen=True)
class Program:
    """Inputs (sizes without the batch, and whether they are integers), steps, outputs, and what is done with the network.

    Values count from the inputs on, one a step. `stack` is None for the default passes, else the text of each pass. `binary` is
    whether sizes are such as binary kernels take.
    """

    inputs: tuple[tuple[tuple[int, ...], bool], ...]
    steps: tuple[Step, ...] = ()
    outputs: tuple[int, ...] = ()
    seed: int = 0
    stack: tuple[str, ...] | None = None
    target: str = "openvino"
    train: bool = False
    binary: bool = False

    def dictionary(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, held: dict[str, Any]) -> Program:
        """From `dictionary`, also once it went through JSON."""
        steps = tuple(Step(s["operation"], tuple(s["sources"]), s["choices"], s["shared"]) for s in held["steps"])
        inputs = tuple((tuple(sizes), integers) for sizes, integers in held["inputs"])
        stack = None if held["stack"] is None else tuple(held["stack"])
        return cls(**held | {"inputs": inputs, "steps": steps, "outputs": tuple(held["outputs"]), "stack": stack})

    def with_step(self, step: Step) -> Program:
        return replace(self, steps=(*self.steps, step))


class Realization:
    """A program run step by step: the text of every line, and the values for a batch of two and of three samples."""

    def __init__(self, program: Program):
        self.program = program
        self.layers: dict[str, str] = {}
        self.lines: list[str] = []
        self.held: dict[str, Any] = {}
        self.values = [list(_samples(program, batch)) for batch in (2, 3)]
        self.names = [f"x{position}" for position in range(len(program.inputs))]
        torch.manual_seed(program.seed)
        for step in program.steps:
            self.add(step)

    def add(self, step: Step) -> None:
        """Run one more step.

        Raises:
            UnfitError: it cannot be run, or the value is no use.
        """
        operation = OPERATIONS[step.operation]
        number = len(self.lines)
        owner = number if step.shared is None else step.shared
        texts = dict(zip(("x", "y", "z"), (self.names[source] for source in step.sources)))
        x = self.values[0][step.sources[0]]
        if x.is_floating_point() == operation.reads_integers or x.dim() not in operation.ranks:
            raise UnfitError("kind of value")
        sizes = list(x.shape[1:])
        texts |= {"m": f"self.m{owner}", "shape": str(sizes), "c": str(sizes[0]), "d": str(sizes[-1])}
        texts |= {name: str(value).format(**texts) for name, value in step.choices.items()}
        try:
            if operation.layer and step.shared is None:
                self.held[f"m{owner}"] = eval(operation.layer.format(**texts), {"nn": nn, "torch": torch})
                if isinstance(self.held[f"m{owner}"], nn.Module):
                    self.held[f"m{owner}"].eval()
                self.layers[f"m{owner}"] = operation.layer.format(**texts)
            line = operation.call.format(**texts)
            found = [self._run(line, values) for values in self.values]
        except Exception as error:
            raise UnfitError(f"{type(error).__name__}: {error}") from error
        _check(*found)
        for values, value in zip(self.values, found):
            values.append(value)
        self.lines.append(line)
        self.names.append(f"v{number}")

    def _run(self, line: str, values: list[Tensor]) -> Tensor:
        scope = {**dict(zip(self.names, values)), "self": _Held(self.held), "torch": torch, "F": F, "nn": nn}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # which refuses what does not fit
            return eval(line, scope)

    def network(self) -> str:
        """The text of the network, as a class `Network`."""
        inits = [f"        self.{name} = {text}" for name, text in self.layers.items()]
        given = ", ".join(self.names[: len(self.program.inputs)])
        lines = [f"        {name} = {line}" for name, line in zip(self.names[len(self.program.inputs) :], self.lines)]
        outputs = ", ".join(self.names[output] for output in self.program.outputs)
        return "\n".join(
            [
                "class Network(nn.Module):",
                "    def __init__(self):",
                "        super().__init__()",
                *inits,
                "",
                f"    def forward(self, {given}):",
                *lines,
                f"        return {outputs}",
            ]
        )


class _Held:
    def __init__(self, held: dict[str, Any]):
        self.__dict__.update(held)


def _samples(program: Program, batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(program.seed)
    return [
        torch.randint(0, 20, (batch, *sizes), generator=generator)
        if integers
        else torch.randn(batch, *sizes, generator=generator)
        for sizes, integers in program.inputs
    ]


def _check(two: Any, three: Any) -> None:
    """Whether a step's values, for two and three samples, can go on."""
    for value, batch in ((two, 2), (three, 3)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or not 2 <= value.dim() <= 5:
            raise UnfitError("no float tensor of rank 2 to 5")
        if value.shape[0] != batch or not 0 < value[0].numel() <= LARGEST:
            raise UnfitError("lost the batch, or too large")
        if not value.isfinite().all() or value.abs().max() > 1e4:
            raise UnfitError("no use for quantizing")
    if two.shape[1:] != three.shape[1:]:
        raise UnfitError("mixes samples")


def script(program: Program) -> str:
    """What anyone can run: the network, the data and the compilation; it ends with the compiled model and its inputs."""
    held = Realization(program).network()
    sizes = ", ".join(
        f"torch.randint(0, 20, (n, {', '.join(map(str, sizes))}))"
        if integers
        else f"torch.randn(n, {', '.join(map(str, sizes))})"
        for sizes, integers in program.inputs
    )
    stack = "None" if program.stack is None else "[" + ", ".join(program.stack) + "]"
    return "\n".join(
        [
            "import torch",
            "import torch.nn.functional as F",
            "from torch import nn",
            "",
            "import fxcompress",
            "from fxcompress import QuantizationOptions, QuantizationSpec, passes",
            "from fxcompress.training import Polynomial",
            "",
            "",
            held,
            "",
            "",
            f"torch.manual_seed({program.seed})",
            "model = Network().eval()",
            "for m in model.modules():",
            "    if isinstance(m, nn.modules.batchnorm._BatchNorm):",
            "        nn.init.uniform_(m.running_var, 0.5, 1.5), nn.init.normal_(m.running_mean, 0, 0.2)",
            f"given = lambda n: ({sizes},)",
            f"data, passes_ = [given(5) for _ in range(4)], {stack}",
            f"compiled = fxcompress.compile(model, passes_, data=data, target={program.target!r})",
        ]
    )


def used(program: Program) -> Program:
    """The program without steps, and inputs, that no output depends on."""
    inputs = len(program.inputs)
    needed = set(program.outputs)
    for position in reversed(range(len(program.steps))):
        step = program.steps[position]
        if position + inputs in needed:
            needed |= set(step.sources) | ({step.shared + inputs} if step.shared is not None else set())
    kept_inputs = [i for i in range(inputs) if i in needed] or [0]
    kept_steps = [i for i in range(len(program.steps)) if i + inputs in needed]
    renamed = dict(zip([*kept_inputs, *(i + inputs for i in kept_steps)], itertools.count()))
    shift = len(kept_inputs)
    steps = tuple(
        replace(
            program.steps[i],
            sources=tuple(renamed[s] for s in program.steps[i].sources),
            shared=None if program.steps[i].shared is None else renamed[program.steps[i].shared + inputs] - shift,
        )
        for i in kept_steps
    )
    outputs = tuple(renamed[o] for o in program.outputs)
    return replace(program, inputs=tuple(program.inputs[i] for i in kept_inputs), steps=steps, outputs=outputs)


def names_in(text: str) -> set[str]:
    """The names that a text asks for."""
    return {name for _, name, _, _ in Formatter().parse(text) if name}
