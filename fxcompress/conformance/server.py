"""The child process that runs written files: a program of its own, which imports numpy and the runtime that is asked for.

Nothing of fxcompress is imported, so that it starts in a fraction of a second. Its arguments are the file descriptor of
a pipe, and where to find packages. It answers requests on the pipe: each is a tuple of the name of a method of `Server`
and its arguments, each answer a tuple ``(value, problem)``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

IDLE_SECONDS = 600.0
"""Without a request for so long, the process ends; the next request starts another one."""

Run = Callable[[Sequence[Any]], list[Any]]
Layers = list[tuple[str, str, str]]
"""The convolutions and matrix products of a file, by name, with the types of the values and the weights that they read."""


def onnxruntime_session(path: str, names: Sequence[str]) -> tuple[Run, Callable[[], Layers]]:
    """`path` in onnxruntime, its inputs in the order of `names`, with what is float in float32 as well."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}
    return lambda inputs: session.run(None, {name: value for name, value in zip(names, inputs) if name in read}), list


def openvino_model(path: str, names: Sequence[str]) -> tuple[Run, Callable[[], Layers]]:
    """`path` in OpenVINO, with what is float in float32: not in bfloat16, nor in 8 bits chosen while it runs."""
    import openvino

    core = openvino.Core()
    described = core.read_model(path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
    model = core.compile_model(described, "CPU", options)
    read = {name for value in model.inputs for name in value.names}  # OpenVINO drops inputs that nothing reads
    request = model.create_infer_request()
    if request.query_state():
        outputs = str(described.get_rt_info(["fxcompress", "outputs"]).value).split(",")
        return _with_states(openvino, request, names, outputs), lambda: _layers(model)

    def run(inputs: Sequence[Any]) -> list[Any]:
        found = request.infer({name: value for name, value in zip(names, inputs) if name in read})
        return [found[output].copy() for output in model.outputs]

    return run, lambda: _layers(model)


def _with_states(openvino: Any, request: Any, names: Sequence[str], outputs: Sequence[str]) -> Run:
    """A model that keeps a cache: its states are set to the inputs, and read as the outputs, that they stand in place of."""
    states: dict[str, Any] = {}
    for state in request.query_state():
        past, _, present = state.name.partition("present.")  # OpenVINO calls a state by the names of its input and its output
        states |= {past: state, f"present.{present}": state}
    ports = {name for port in request.model_inputs for name in port.names}

    def run(inputs: Sequence[Any]) -> list[Any]:
        request.reset_state()
        given = dict(zip(names, inputs))
        for name in given.keys() & states.keys():
            if given[name].size:  # it holds nothing otherwise
                states[name].state = openvino.Tensor(given[name])
        feed = {name: value for name, value in given.items() if name in ports}
        feed["beam_idx"] = np.arange(len(next(iter(feed.values()))), dtype=np.int32)
        request.infer(feed)
        kept = states.keys() & set(outputs)
        return [states[name].state.data.copy() if name in kept else request.get_tensor(name).data.copy() for name in outputs]

    return run


KERNELS = {"Convolution", "Deconvolution", "BinaryConvolution", "MatMul", "FullyConnected"}


def _layers(model: Any) -> Layers:
    nodes = [node for node in model.get_runtime_model().get_ops() if node.get_rt_info()["layerType"].astype(str) in KERNELS]
    kinds = [[node.get_input_element_type(position).get_type_name() for position in range(2)] for node in nodes]
    return [(node.get_friendly_name(), values, weights) for node, (values, weights) in zip(nodes, kinds)]


def openvino_layers(path: str) -> Layers:
    """What OpenVINO runs for the file at `path`."""
    import openvino

    core = openvino.Core()
    return _layers(core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))


LOADERS = {"onnxruntime": onnxruntime_session, "openvino": openvino_model}


class Server:
    """Holds the model that was loaded last."""

    def __init__(self) -> None:
        self.model: Run | None = None
        self.told: Callable[[], Layers] = list

    def version(self, runtime: str) -> str:
        """The runtime's version; an ImportError where it is not installed."""
        return str(__import__(runtime).__version__)

    def load(self, runtime: str, path: str, names: Sequence[str]) -> None:
        """Load the file `path`, whose inputs are called `names`."""
        self.forget()
        self.model, self.told = LOADERS[runtime](path, names)

    def layers(self, path: str) -> Layers:
        """See `openvino_layers`."""
        return openvino_layers(path)

    def loaded_layers(self) -> Layers:
        """Those of the model, as far as its runtime tells."""
        return self.told()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for `inputs`, which are arrays in the order of the names."""
        assert self.model is not None
        return self.model(inputs)

    def forget(self) -> None:
        """Let go of the model."""
        self.model, self.told = None, list


def end_with_parent() -> None:
    """End soon after the process that asks, however that ended, and whatever the runtime is busy with."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(pipe: Connection) -> None:
    """Answer until the other end is closed."""
    end_with_parent()
    server = Server()
    while pipe.poll(IDLE_SECONDS):
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((getattr(server, name)(*arguments), None))
        except Exception as problem:
            pipe.send((None, f"{type(problem).__name__}: {problem}"))


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.argv[2:] if entry]
    serve(Connection(int(sys.argv[1])))
