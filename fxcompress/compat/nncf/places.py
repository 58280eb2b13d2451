"""Where scripts import NNCF's names from: each of its modules that they know, as a module here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HERE = __name__.rpartition(".")[0]

_DEFAULTS = {
    "TARGET_DEVICE": "ANY",
    "NUM_INIT_SAMPLES": 256,
    "NUM_BN_ADAPTATION_SAMPLES": 2000,
    "QUANTIZATION_BITS": 8,
    "QUANTIZATION_PER_CHANNEL": False,
    "LR_POLY_DURATION_EPOCHS": 30,
    "STAGED_QUANTIZATION_BASE_LR": 1e-3,
    "STAGED_QUANTIZATION_BASE_WD": 1e-5,
    "ACTIVATIONS_QUANT_START_EPOCH": 1,
    "WEIGHTS_QUANT_START_EPOCH": 1,
}
_ARGS = (
    "PTInitializingDataLoader QuantizationRangeInitArgs BNAdaptationInitArgs QuantizationPrecisionInitArgs LeGRInitArgs "
    "AutoQPrecisionInitArgs ModelEvaluationArgs ExecutionParameters"
)
_LOGGING = "nncf_logger disable_logging set_log_level"
_INPUTS = "FillerInputInfo FillerInputElement ExampleInputInfo"
_WRAPPERS = "nncf_model_input nncf_model_output wrap_nncf_model_inputs_with_objwalk wrap_nncf_model_outputs_with_objwalk"
PLACES: dict[str, dict[str, str]] = {
    "api": {},
    "api.compression": {"controller": "CompressionAlgorithmController CompressionScheduler", "stages": "CompressionStage"},
    "api.statistics": {"controller": "Statistics"},
    "common": {},
    "common.accuracy_aware_training": {"training_loop": "create_accuracy_aware_training_loop"},
    "common.accuracy_aware_training.statistics": {"training_loop": "TrainingLoopStatistics"},
    "common.accuracy_aware_training.training_loop": {
        "training_loop": (
            "create_accuracy_aware_training_loop TrainingLoopStatistics EarlyExitCompressionTrainingLoop "
            "AdaptiveCompressionTrainingLoop"
        ),
    },
    "common.hardware": {},
    "common.hardware.config": {"environment": "HWConfigType TargetDevice"},
    "common.initialization": {},
    "common.initialization.batchnorm_adaptation": {"model": "BatchnormAdaptationAlgorithm"},
    "common.logging": {"environment": _LOGGING},
    "common.logging.logger": {"environment": _LOGGING},
    "common.statistics": {"controller": "NNCFStatistics"},
    "common.utils": {},
    "common.utils.os": {"environment": "safe_open is_linux is_windows"},
    "common.utils.logger": {"environment": f"logger {_LOGGING}"},
    "common.utils.tensorboard": {"environment": "prepare_for_tensorboard"},
    "config": {"configuration": "NNCFConfig"},
    "config.config": {"configuration": "NNCFConfig"},
    "config.schemata": {},
    "config.schemata.defaults": {},
    "config.structures": {"initialization": "BNAdaptationInitArgs QuantizationRangeInitArgs ModelEvaluationArgs"},
    "config.utils": {"training_loop": "is_accuracy_aware_training"},
    "definitions": {"environment": "CACHE_MODELS_PATH"},
    "parameters": {"environment": "TargetDevice"},
    "torch": {
        "model": "create_compressed_model load_state",
        "initialization": "register_default_init_args",
        "configuration": "NNCFConfig",
        "environment": (
            "no_nncf_trace forward_nncf_trace disable_tracing register_module register_operator disable_logging "
            "nncf_model_input nncf_model_output force_build_cpu_extensions force_build_cuda_extensions"
        ),
    },
    "torch.checkpoint_loading": {"model": "load_state"},
    "torch.dynamic_graph": {},
    "torch.batchnorm_adaptation": {"model": "BatchnormAdaptationAlgorithm"},
    "torch.composite_compression": {"controller": "PTCompositeCompressionAlgorithmController"},
    "torch.compression_method_api": {"controller": "PTCompressionAlgorithmController"},
    "torch.dynamic_graph.context": {
        "environment": "no_nncf_trace forward_nncf_trace disable_tracing get_current_context",
    },
    "torch.dynamic_graph.trace_tensor": {"environment": "TracedTensor"},
    "torch.layer_utils": {"environment": "CompressionParameter"},
    "torch.dynamic_graph.graph_tracer": {"inputs": f"{_INPUTS} ModelInputInfo create_input_infos"},
    "torch.dynamic_graph.io_handling": {"inputs": _INPUTS, "environment": _WRAPPERS},
    "torch.dynamic_graph.patch_pytorch": {"environment": "register_operator"},
    "torch.exporter": {"inputs": "count_tensors generate_input_names_list generate_output_names_list get_export_args"},
    "torch.initialization": {
        "initialization": "register_default_init_args default_criterion_fn PTInitializingDataLoader",
    },
    "torch.layers": {"environment": "register_module"},
    "torch.model_creation": {"model": "create_compressed_model"},
    "torch.nncf_network": {"model": "NNCFNetwork get_nncf_network_type"},
    "torch.quantization": {},
    "torch.quantization.algo": {"controller": "QuantizationController"},
    "torch.structures": {"initialization": _ARGS},
    "torch.utils": {
        "environment": (
            "is_main_process safe_thread_call manual_seed is_dist_avail_and_initialized get_rank get_world_size "
            "is_tracing_state no_jit_trace add_domain get_model_device"
        ),
    },
}
"""NNCF's modules: for each the files here, and the names from them."""

_OTHERS = {
    "register_module": "unchanged",
    "register_operator": "unchanged",
    "PTCompositeCompressionAlgorithmController": "CompressionAlgorithmController",
    "PTCompressionAlgorithmController": "CompressionAlgorithmController",
    "Statistics": "NNCFStatistics",
    "EarlyExitCompressionTrainingLoop": "AccuracyAwareTrainingLoop",
    "AdaptiveCompressionTrainingLoop": "AccuracyAwareTrainingLoop",
    "nncf_model_input": "as_it_is",
    "nncf_model_output": "as_it_is",
    "wrap_nncf_model_inputs_with_objwalk": "as_they_are",
    "wrap_nncf_model_outputs_with_objwalk": "as_it_is",
    "ModelInputInfo": "FillerInputElement",
}
"""What a name is here that stands for something with another."""


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of `PLACES` under any name that this package has, its own or NNCF's."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        for root in (HERE, "nncf"):
            place = fullname.removeprefix(f"{root}.")
            ours = sys.modules.get(root) is not None and sys.modules[root] is sys.modules.get(HERE)
            if place != fullname and place in PLACES and ours:
                return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        name = module.__spec__.name
        place = name.removeprefix(f"{HERE}.").removeprefix("nncf.")
        vars(module).update(contents(place))


def contents(place: str) -> dict[str, Any]:
    """The names that NNCF's module at `place` has here."""
    found: dict[str, Any] = dict(_DEFAULTS) if place == "config.schemata.defaults" else {}
    for file, names in PLACES[place].items():
        source = "fxcompress.training.controller" if file == "stages" else f"{HERE}.{file}"
        module = importlib.import_module(source)
        found |= {name: getattr(module, _OTHERS.get(name, name)) for name in names.split()}
    return found


def find_modules() -> None:
    """Let imports find NNCF's modules in this package."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
