"""One program tried: compiled, trained, checkpointed, written, and run in both runtimes beside its simulation."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.utils import _pytree as pytree

from benchmarks.random_stacks.program import Program, UnfitError, script
from fxcompress.conformance.server import LOADERS
from fxcompress.conformance.simulation import Simulation
from fxcompress.errors import EmitError, InputError, PlanError
from fxcompress.passes.use_binary_convolutions import BINARY_CONVOLUTION

BATCHES = (1, 2, 5)


_ASKED_TOO_MUCH = (
    "multiply-adds can be removed",
    "give Quantize weights of fewer bits",
    "weights are at most",
    "the loss has no gradient",
    "cannot be differentiated twice",
)
"""What errors say where the stack asks for what the network cannot give."""


@dataclass(frozen=True)
class Finding:
    """What went wrong. `kind` is what shrinking keeps."""

    kind: str
    detail: str


def tried(program: Program, folder: Path) -> Finding | None:
    """What is wrong with `program`, if anything; files are written into `folder`."""
    scope: dict[str, Any] = {}
    torch.manual_seed(program.seed)
    step = "compile"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(script(program), f"<program {program.seed}>", "exec"), scope)
            compiled = scope["compiled"]
            if program.train:
                step = "train"
                finding = _trained(scope)
                if finding:
                    return finding
            if "TrainQuantizers" in str(program.stack) or program.train:
                compiled.eval()
            step = "write"
            path = compiled.to_onnx(folder / "model.onnx", verify=False)
            lowered = compiled.lower()
            step = "run"
            finding = _run(program, lowered, path, scope["given"])
            if finding or program.target != "openvino":
                return finding
            step = "write for OpenVINO"
            return _written_for_openvino(compiled, path, scope["given"])
    except UnfitError:  # with the weights of its own, which the steps that were drawn in vain do not change
        return None
    except (InputError, PlanError) as error:
        if any(asked in str(error) for asked in _ASKED_TOO_MUCH):
            return None
        return Finding(f"{step}: refused {_short(error)}", str(error))
    except Exception as error:
        return Finding(f"{step}: {type(error).__name__} {_short(error)}", traceback.format_exc(limit=-6))


def tried_as_data(program: Program, folder: Path) -> dict[str, str] | None:
    """`tried`, for another process."""
    finding = tried(program, folder)
    return finding and asdict(finding)


def _short(error: Exception) -> str:
    """An error's first words, without what differs between two programs."""
    if isinstance(error, EmitError):
        return " ".join(sorted(set(re.findall(r"aten\.\w+", str(error)))))
    return re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+|_+\w*|\bv\b", "", str(error).splitlines()[0] if str(error) else "")[:60].strip()


def _trained(scope: dict[str, Any]) -> Finding | None:
    """Two epochs of a step each; then a checkpoint, loaded into the same compilation, gives the same bits."""
    compiled, data, model = scope["compiled"], scope["data"], scope["model"]
    controller = compiled.controller
    parameters = [p for p in compiled.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3) if parameters else None
    for _ in range(2):
        controller.scheduler.epoch_step()
        compiled.train()
        for x in data[:1]:
            controller.scheduler.step()
            found = [o for o in pytree.tree_leaves(compiled(*x)) if o.is_floating_point() and o.requires_grad]
            loss = sum((o.square().mean() for o in found), torch.zeros(())) + controller.loss()
            if optimizer and loss.requires_grad:
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
    compiled.eval()
    import fxcompress

    twin = fxcompress.compile(model, scope["passes_"], data=data, target=compiled.compilation.target)
    twin.controller  # noqa: B018 -- as a training script would have it
    twin.load_checkpoint(compiled.checkpoint())
    twin.eval()
    with torch.no_grad():
        pair = [pytree.tree_leaves(one(*data[0])) for one in (compiled, twin)]
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*pair)):
        return Finding("checkpoint: other outputs", "the model that loaded the checkpoint computes something else")
    return None


def _run(program: Program, lowered: Any, path: Path, given: Any) -> Finding | None:
    for runtime in ("onnxruntime", "openvino") if program.target == "openvino" else ("onnxruntime",):
        finding, _ = run_beside(lowered, path, given, runtime)
        if finding:
            return Finding(f"{runtime} ({program.target}) {finding.kind}", finding.detail)
    return None


def _written_for_openvino(compiled: Any, beside: Path, given: Any) -> Finding | None:
    """What is wrong with OpenVINO's own file, whose inputs are named as those of the one `beside`."""
    lowered = compiled.lower(binary_convolutions=True)
    path = compiled.to_openvino(beside.with_suffix(".xml"), verify=False)
    on_bits = any(node.target is BINARY_CONVOLUTION for node in lowered.graph.nodes)
    finding, _ = run_beside(lowered, path, given, "openvino", _inputs(beside), BATCHES[:1] if on_bits else BATCHES)
    return finding and Finding(f"openvino (its own file) {finding.kind}", finding.detail)


def _inputs(path: Path) -> list[str]:
    return [value.name for value in onnx.load(path, load_external_data=False).graph.input]


def run_beside(
    lowered: Any, path: Path, given: Any, runtime: str, names: Sequence[str] = (), batches: Sequence[int] = BATCHES
) -> tuple[Finding | None, float]:
    """What is wrong with a file in `runtime`, and how well it agrees where it agrees least, in dB."""
    names = names or _inputs(path)
    lowest, step = float("inf"), "load"
    try:
        run, _ = LOADERS[runtime](str(path), names)
        step = "run"
        for batch in batches:
            torch.manual_seed(batch)
            inputs = given(batch)
            outputs = [torch.as_tensor(output) for output in run([x.numpy() for x in inputs])]
            for one in Simulation(lowered, inputs).compare(outputs):
                lowest = min(lowest, one.decibels)
                if one.faulty:
                    told = f"batch {batch}, output {one.position}: {one.decibels:.1f} dB, rounding explains {one.explained:.1f}"
                    return Finding("differs", told), lowest
    except Exception as error:
        return Finding(f"does not {step}: {_short_runtime(error)}", str(error)[:1500]), float("-inf")
    return None, lowest


def _short_runtime(error: Exception) -> str:
    text = re.sub(r"'[^']*'|\d+|/\S+", "", str(error))
    match = re.search(r"(Check|No suitable|Status Message|INVALID|NOT_IMPL|Non-zero status|does not match).{0,80}", text)
    return (match.group(0) if match else text[:60]).strip()
