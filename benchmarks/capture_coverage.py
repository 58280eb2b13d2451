"""Which real models are captured: each is traced, run beside the original, and its state_dict keys compared.

    python -m benchmarks.capture_coverage                       every family (torchvision, timm, Hugging Face)
    python -m benchmarks.capture_coverage --family timm         one family
    python -m benchmarks.capture_coverage --only resnet18       one model (a glob works)

Weights are random, so nothing is downloaded. Needs torchvision, timm and transformers; a family that is missing is skipped.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.models import import_torchvision
from fxcompress import dialect
from fxcompress.capture import capture
from fxcompress.inputs import ExampleInputs

BATCHES = (1, 2, 5)

TIMM = {
    "CNN": "resnet26d resnetv2_50x1_bit resnext50_32x4d seresnet50 ecaresnet50t densenet121 vgg11_bn dla34 hrnet_w18_small "
    "res2net50_26w_4s xception41 inception_v4 dpn68 selecsls42b cspresnet50 ghostnet_100 rexnet_100 nfnet_l0 "
    "repvgg_a0 darknet53",
    "MobileNet": "mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_conv_medium "
    "mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_s mnasnet_100 fbnetc_100 hardcorenas_a tinynet_a lcnet_050 mobileone_s0",
    "EfficientNet": "efficientnet_b0 efficientnet_lite0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnet_lite0 "
    "tf_efficientnetv2_b0 mixnet_s",
    "RegNet": "regnetx_002 regnety_002 regnetz_b16",
    "ConvNeXt": "convnext_atto convnextv2_atto convnext_tiny edgenext_xx_small inception_next_tiny",
    "ViT": "vit_tiny_patch16_224 deit_tiny_patch16_224 vit_small_patch16_224 cait_xxs24_224 beit_base_patch16_224 "
    "eva02_tiny_patch14_224 xcit_nano_12_p16_224 pit_ti_224 tnt_s_patch16_224 levit_128s crossvit_tiny_240 volo_d1_224 "
    "efficientformer_l1 tiny_vit_5m_224 mobilevit_xxs fastvit_t8 poolformer_s12 coat_tiny",
    "Swin": "swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swin_s3_tiny_224 twins_svt_small "
    "maxvit_tiny_rw_224 nest_tiny",
    "MLP-Mixer": "mixer_s32_224 gmixer_24_224 resmlp_12_224 gmlp_s16_224 convmixer_768_32",
}


@dataclass(frozen=True)
class Case:
    """A model to try: how to make it, and its inputs for a batch size."""

    family: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], ExampleInputs]


@dataclass(frozen=True)
class Outcome:
    """What came of it; `problem` is empty where all is well."""

    case: Case
    nodes: int = 0
    seconds: float = 0.0
    difference: float = 0.0
    batch: str = ""
    problem: str = ""


def images(size: int) -> Callable[[int], ExampleInputs]:
    return lambda batch: ExampleInputs((torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)),))


def torchvision_cases() -> Iterator[Case]:
    if find_spec("torchvision") is None:
        raise ImportError("torchvision is not installed")
    models = import_torchvision().models
    for name in models.list_models(module=models):
        size = 75 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else 64
        yield Case("torchvision", name, lambda name=name: models.get_model(name, weights=None, **_quiet(name)), images(size))
    for name in models.list_models(module=models.segmentation):
        make = lambda name=name: models.get_model(name, weights=None, weights_backbone=None)  # noqa: E731
        yield Case("torchvision segmentation", name, make, images(64))


def _quiet(name: str) -> dict[str, Any]:
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _prepare_torchvision() -> None:
    """timm and transformers import it where it is installed, and do not know how to."""
    if find_spec("torchvision"):
        import_torchvision()


def timm_cases() -> Iterator[Case]:
    _prepare_torchvision()
    import timm

    for group, names in TIMM.items():
        for name in names.split():
            size = timm.get_pretrained_cfg(name)
            yield Case(
                f"timm {group}",
                name,
                lambda name=name: timm.create_model(name, pretrained=False),
                images(size.input_size[-1] if size else 224),
            )


def hugging_face_cases() -> Iterator[Case]:
    _prepare_torchvision()
    import transformers as hf

    small = {"num_hidden_layers": 3}
    text = {
        "bert": (hf.BertModel, hf.BertConfig(**small)),
        "bert-classifier": (hf.BertForSequenceClassification, hf.BertConfig(**small)),
        "bert-masked-lm": (hf.BertForMaskedLM, hf.BertConfig(**small)),
        "distilbert": (hf.DistilBertModel, hf.DistilBertConfig(n_layers=3)),
        "distilbert-classifier": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig(n_layers=3)),
        "gpt2": (hf.GPT2Model, hf.GPT2Config(n_layer=3, use_cache=False)),
        "gpt2-lm": (hf.GPT2LMHeadModel, hf.GPT2Config(n_layer=3, use_cache=False)),
    }
    for name, (cls, config) in text.items():
        config.pad_token_id = 0
        yield Case("Hugging Face", name, lambda cls=cls, config=config: cls(config), tokens)
    for name, cls in {"vit": hf.ViTModel, "vit-classifier": hf.ViTForImageClassification}.items():
        yield Case("Hugging Face", name, lambda cls=cls: cls(hf.ViTConfig(**small)), pixels)


def tokens(batch: int) -> ExampleInputs:
    ids = torch.randint(1, 1000, (batch, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[-1, 12:] = 0
    return ExampleInputs((), {"input_ids": ids, "attention_mask": mask})


def pixels(batch: int) -> ExampleInputs:
    return ExampleInputs((), {"pixel_values": images(224)(batch).args[0]})


FAMILIES = {"torchvision": torchvision_cases, "timm": timm_cases, "huggingface": hugging_face_cases}


@torch.no_grad()
def examine(case: Case) -> Outcome:
    """Capture the model of `case` and compare the graph with it on three batch sizes."""
    torch.manual_seed(0)
    model = case.make().eval()
    example = case.inputs(1)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph_module = capture(model, example)
        seconds = time.perf_counter() - started
        dialect.check(graph_module)
        if list(graph_module.state_dict()) != list(model.state_dict()):
            return Outcome(case, problem="state_dict keys differ")
        notes = graph_module.meta["capture_notes"]
        fixed = next((note for note in notes if "batch size is fixed" in note), "")
        difference = max(_difference(model, graph_module, case.inputs(b)) for b in (BATCHES[:1] if fixed else BATCHES))
    except Exception as error:
        return Outcome(case, problem=f"{type(error).__name__}: {' '.join(str(error).split())}")
    problem = f"outputs differ by {difference:.1e}" if difference > 1e-4 else "; ".join(notes)
    batch = "1" if fixed else "symbolic"
    return Outcome(case, len(graph_module.graph.nodes), seconds, difference, batch, problem)


def _difference(model: nn.Module, graph_module: nn.Module, example: ExampleInputs) -> float:
    """The largest difference of any output, relative to the largest magnitude in it."""
    expected = pytree.tree_leaves(model(*example.args, **example.kwargs))
    got = pytree.tree_leaves(graph_module(*example.args, **example.kwargs))
    if len(expected) != len(got):
        return float("inf")
    pairs = [(e, g) for e, g in zip(expected, got) if isinstance(e, Tensor)]
    return max(((e - g).abs().max() / e.abs().max().clamp(min=1e-30)).item() for e, g in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this family; may be repeated")
    parser.add_argument("--only", metavar="NAME", help="only the models that this name or glob matches")
    options = parser.parse_args()
    console = Console()
    cases: list[Case] = []
    for family in options.family or FAMILIES:
        try:
            cases += FAMILIES[family]()
        except ImportError as error:
            console.print(f"[yellow]{family} is left out: {error}")
    cases = [case for case in cases if options.only is None or fnmatch.fnmatch(case.name, options.only)]
    outcomes = []
    for case in track(cases, "capturing", console=console, transient=True):
        outcomes.append(examine(case))
        gc.collect()
    console.print(_table(outcomes))
    console.print(_summary(outcomes))


def _passed(outcome: Outcome) -> bool:
    return bool(outcome.batch) and outcome.difference <= 1e-4


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("family", "model", "captured")
    for name in ("nodes", "seconds", "difference"):
        table.add_column(name, justify="right")
    table.add_column("batch")
    table.add_column("note", overflow="fold", max_width=60)
    for o in outcomes:
        mark = "[green]yes" if _passed(o) else "[red]no"
        figures = (str(o.nodes), f"{o.seconds:.2f}", f"{o.difference:.0e}") if o.batch else ("", "", "")
        table.add_row(o.case.family, o.case.name, mark, *figures, o.batch, o.problem)
    return table


def _summary(outcomes: list[Outcome]) -> Table:
    table = Table("family", "captured and equal", "symbolic batch", title="summary")
    for family in dict.fromkeys(o.case.family for o in outcomes):
        rows = [o for o in outcomes if o.case.family == family]
        good, symbolic = sum(map(_passed, rows)), sum(o.batch == "symbolic" for o in rows)
        table.add_row(family, f"{good} of {len(rows)}", f"{symbolic} of {len(rows)}")
    return table


if __name__ == "__main__":
    main()
