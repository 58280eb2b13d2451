"""Every operator of torch's own test database: how it is written in ONNX, and whether both runtimes compute what torch does.

    python -m benchmarks.operators                      all operators; several minutes, goes on after an interruption
    python -m benchmarks.operators --only "*pool*" --again
    python -m benchmarks.operators --refused            those that are refused, anew

Each is called on sample inputs of torch's (`torch.testing._internal.common_methods_invocations`), which are inputs of the
file. "ours" is a translation of fxcompress, "torchlib" one of torch.onnx's, "decomposed" means that torch's decomposition is
written by either; "constant" that nothing depends on the inputs. Of what is refused the table says what torch.onnx makes of it,
with sizes that are fixed. Needs expecttest, as torch's database does.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import json
import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.requirements import need
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.storage.atomic import write_text

RESULTS = Path(__file__).parent / "results"
CHECKOUT = f"{Path(__file__).parents[1]}/"
"""Left out of what errors say: files are named from there."""
SAMPLES = 3
SECONDS = 120
RANDOM = (
    "bernoulli",
    "cauchy",
    "dropout",
    "empty",
    "exponential",
    "geometric",
    "log_normal",
    "multinomial",
    "normal",
    "rand",
    "rrelu",
)
_REFUSALS = ("No ONNX function found", "No decompositions registered", "Failed to export the model with torch.export")
HEADINGS = ["operator", "written by", "onnxruntime", "OpenVINO", "why"]
WAYS = ["refused", "decomposed", "torchlib", "ours", "constant"]  # a sample's is the first of those of its calls


class Sample(nn.Module):
    """One call of an operator; its tensors are the inputs."""

    def __init__(self, function: Callable[..., Any], sample: Any) -> None:
        super().__init__()
        self.function = function
        self.leaves, self.spec = pytree.tree_flatten(((sample.input, *sample.args), dict(sample.kwargs)))
        self.inputs = [leaf.detach().clone() for leaf in self.leaves if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.function(*args, **kwargs)


def operators() -> dict[str, Any]:
    """The database's operators by name, but those that are random or take no tensor."""
    need("expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    found = {f"{one.name}.{one.variant_test_name}" if one.variant_test_name else one.name: one for one in op_db}
    return {name: one for name, one in sorted(found.items()) if not any(word in name for word in RANDOM)}


def samples(operator: Any) -> Iterator[Sample]:
    """The first sample calls that have a tensor, of the first dtype that the operator takes."""
    dtypes = operator.supported_dtypes("cpu")
    dtype = next(d for d in (torch.float32, torch.int64, torch.bool, torch.complex64, *dtypes) if d in dtypes)
    count = 0
    for sample in operator.sample_inputs("cpu", dtype, requires_grad=False):
        call = Sample(operator.op, sample)
        if call.inputs and all(t.layout == torch.strided and t.numel() for t in call.inputs) and _is_a_function(call):
            yield call
            count += 1
        if count == SAMPLES:
            return


def _is_a_function(call: Sample) -> bool:
    """Whether a call gives the same when repeated, and of copies: it drops nothing at random and reads no other memory."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad(), contextlib.suppress(Exception), mock.patch("torch.manual_seed"):  # the database sets seeds
            leaves = pytree.tree_leaves(call(*(tensor.clone() for tensor in call.inputs)))
            found.append([leaf for leaf in leaves if isinstance(leaf, Tensor)])
    try:
        first, second = found
        torch.testing.assert_close(first, second, equal_nan=True, rtol=0, atol=0)
    except (AssertionError, ValueError):
        return False
    return True


def examine(name: str) -> dict[str, Any]:
    """The row of an operator: the worst of its samples."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.manual_seed(0)
    rows = [_examine(sample) for sample in samples(operators()[name])]
    if not rows:
        return {"name": name, "way": "no sample", "onnxruntime": "", "openvino": "", "why": ""}
    worst = min(rows, key=lambda row: (row["way"] != "refused", row["onnxruntime"] == "same", row["openvino"] == "same"))
    return {"name": name, **worst}


def _examine(sample: Sample) -> dict[str, Any]:
    row = {"way": "refused", "onnxruntime": "", "openvino": "", "why": ""}
    try:
        with torch.no_grad():
            leaves = pytree.tree_leaves(sample(*sample.inputs))
            wanted = [_pairs(torch.as_tensor(w)) for w in leaves if isinstance(w, Tensor | int | float | bool)]
            given = [tensor.clone() for tensor in sample.inputs]
        graph = capture(sample, ExampleInputs(tuple(given)))
        model = to_onnx_model(graph)
        serialized = ir.to_proto(model).SerializeToString()
    except Exception as error:
        lines = str(error).splitlines()
        row["why"] = (
            lines[2] if lines and "cannot be written" in lines[0] else f"{type(error).__name__}: {lines[0] if lines else ''}"
        ).strip()
        row["torch"] = _in_torch(sample)
        return row
    ways = set(model.meta["ways"].values())
    row["way"] = next((way for way in WAYS if way in ways), "constant")
    inputs = {value.name: _pairs(tensor).numpy() for value, tensor in zip(model.graph.inputs, sample.inputs)}
    for runtime, run in (("onnxruntime", _in_onnxruntime), ("openvino", _in_openvino)):
        try:
            row[runtime] = _compared(run(serialized, inputs), wanted)
        except Exception as error:
            row[runtime] = "does not run"
            row["why"] = row["why"] or " ".join(str(error).split())[-160:]
    return row


def _in_torch(sample: Sample) -> str:
    """What torch's exporter makes of a call."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.onnx.export(sample.eval(), tuple(tensor.clone() for tensor in sample.inputs), dynamo=True, verbose=False)
    except Exception as error:
        told = " ".join(str(error).split())
        kind = next((line for line in _REFUSALS if line in told), type(error).__name__)
        return f"torch.onnx refuses it as well: {kind}"
    return "torch.onnx writes it"


def _pairs(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.detach()


def _compared(found: list[np.ndarray], wanted: list[Tensor]) -> str:
    for got, want in zip(found, wanted, strict=True):
        reference = want.double().numpy()
        if got.shape != reference.shape:
            return f"shape {list(got.shape)}, not {list(reference.shape)}"
        finite = reference[np.isfinite(reference)]
        step = torch.finfo(want.dtype).eps if want.is_floating_point() else 0.0  # half precision is written as float32
        tolerance = max(1e-4, step) * max(1.0, float(np.abs(finite).max(initial=0)))
        if not np.allclose(got.astype(np.float64), reference, rtol=max(1e-3, step), atol=tolerance, equal_nan=True):
            return "differs"
    return "same"


def _in_onnxruntime(serialized: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def _in_openvino(serialized: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    core = need("openvino").Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(serialized), "CPU", options)
    read = {name for value in compiled.inputs for name in value.names}
    return list(compiled({name: array for name, array in inputs.items() if name in read}).values())


def sweep(names: list[str], rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of `names`, each from a process that another one follows if it dies."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.operators", "torch.testing._internal.common_methods_invocations"])
    pool = None
    for name in track(names):
        pool = pool or ProcessPoolExecutor(1, mp_context=context)
        try:
            row = pool.submit(examine, name).result(SECONDS)
            yield row | {"why": row["why"].replace(CHECKOUT, "")}
            continue
        except BrokenProcessPool:
            problem = "kills the process"
        except TimeoutError:
            problem = f"takes more than {SECONDS} s"
            for process in pool._processes.values():
                process.kill()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        pool.shutdown(wait=False)
        pool = None
        yield {"name": name, "way": "refused", "onnxruntime": "", "openvino": "", "why": problem}
    if pool:
        pool.shutdown()


def report(rows: dict[str, Any]) -> str:
    """The page: counts, then a row an operator."""
    known = [rows[name] for name in sorted(rows) if rows[name]["way"] != "no sample"]
    ways = Counter(row["way"] for row in known)
    same = {runtime: sum(row[runtime] == "same" for row in known) for runtime in ("onnxruntime", "openvino")}
    summary = ", ".join(f"{ways[way]} {way}" for way in reversed(WAYS))
    cells = [[row["name"], row["way"], row["onnxruntime"], row["openvino"], _why(row)] for row in known]
    return (
        f"# Operators\n\nOf {len(known)} operators of torch's test database with tensors as inputs: {summary}. "
        f"The same as torch in onnxruntime: {same['onnxruntime']}, in OpenVINO: {same['openvino']}. "
        f"`python -m benchmarks.operators`.\n\n"
        + "\n".join(" | ".join(["", *row, ""]).strip() for row in [HEADINGS, ["---"] * len(HEADINGS), *cells])
        + "\n"
    )


def _why(row: dict[str, Any]) -> str:
    return "; ".join(filter(None, (row["why"], row.get("torch")))).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a glob of names")
    parser.add_argument("--again", action="store_true", help="also those that are in the results")
    parser.add_argument("--refused", action="store_true", help="only those that are refused in the results, anew")
    options = parser.parse_args()
    path = RESULTS / "operators.json"
    rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    names = [n for n in operators() if fnmatch.fnmatch(n, options.only) and (options.again or n not in rows)]
    if options.refused:
        names = [name for name, row in rows.items() if row["way"] == "refused" and "torch" not in row]
    for row in sweep(names, rows):
        rows[row["name"]] = row
        write_text(path, json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n")
        write_text(RESULTS / "operators.md", report(rows))


if __name__ == "__main__":
    main()
