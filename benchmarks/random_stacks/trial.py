"""One program tried: compiled, trained, checkpointed, written, and run in both runtimes beside its simulation."""

from __future__ import annotations

import re
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from benchmarks.random_stacks.program import Program, script
from fxcompress.conformance.simulation import Simulation
from fxcompress.errors import EmitError, InputError, PlanError

BATCHES = (1, 2, 5)


_ASKED_TOO_MUCH = (
    "multiply-adds can be removed",
    "give Quantize weights of fewer bits",
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
            return _run(program, lowered, path, scope["given"])
    except (InputError, PlanError) as error:
        if any(asked in str(error) for asked in _ASKED_TOO_MUCH):
            return None
        return Finding(f"{step}: refused {_short(error)}", str(error))
    except Exception as error:
        return Finding(f"{step}: {type(error).__name__} {_short(error)}", traceback.format_exc(limit=-6))


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
    import onnx

    names = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    for runtime in (_onnxruntime, _openvino) if program.target == "openvino" else (_onnxruntime,):
        try:
            run = runtime(path)
        except Exception as error:
            return Finding(
                f"{runtime.__name__[1:]} ({program.target}) does not load: {_short_runtime(error)}", str(error)[:1500]
            )
        for batch in BATCHES:
            torch.manual_seed(batch)
            inputs = given(batch)
            try:
                outputs = run(dict(zip(names, (x.numpy() for x in inputs))))
            except Exception as error:
                return Finding(
                    f"{runtime.__name__[1:]} ({program.target}) does not run: {_short_runtime(error)}", str(error)[:1500]
                )
            for one in Simulation(lowered, inputs).compare([torch.as_tensor(output) for output in outputs]):
                if one.faulty:
                    told = f"batch {batch}, output {one.position}: {one.decibels:.1f} dB, rounding explains {one.explained:.1f}"
                    return Finding(f"{runtime.__name__[1:]} ({program.target}) differs", told)
    return None


def _short_runtime(error: Exception) -> str:
    text = re.sub(r"'[^']*'|\d+|/\S+", "", str(error))
    match = re.search(r"(Check|Exception|No suitable|Status Message|INVALID|NOT_IMPL|Non-zero status).{0,80}", text)
    return (match.group(0) if match else text[:60]).strip()


def _onnxruntime(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # no 8 bits of the runtime's own choice
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}
    return lambda feeds: session.run(None, {name: value for name, value in feeds.items() if name in read})


def _openvino(path: Path) -> Any:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    read = {name for value in compiled.inputs for name in value.names}

    def run(feeds: dict[str, Any]) -> list[Any]:
        found = compiled({name: value for name, value in feeds.items() if name in read})
        return [found[output] for output in compiled.outputs]

    return run
