"""The tasks' data, examples and tables, on a few small scenes."""

import gzip
import json
import runpy
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.scoreboard import MET, MISSED
from benchmarks.tasks import __main__ as command
from benchmarks.tasks import plots, recorded, scenes, table
from benchmarks.tasks.task import FLOAT, Run, Stack, Task, runs

EXAMPLES = Path(__file__).parent.parent / "examples"


def idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def items(tmp_path):
    """Files like Fashion-MNIST's: class 0 fills a wide rectangle, class 1 a tall one."""
    images = np.zeros((2, 28, 28))
    images[0, 10:18, 2:26] = images[1, 2:26, 10:18] = 255
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(2))
    return tmp_path


@pytest.fixture
def data(items, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SIZE", 32)
    monkeypatch.setattr(scenes, "SIDES", (10, 16))
    monkeypatch.setattr(scenes.pictures, "crops", lambda purpose, count, size: torch.full((count, 3, size, size), 0.25))
    return scenes.write(tmp_path / "data", {"train": 16, "valid": 8}, items)


def test_boxes_and_masks_say_the_same(data):
    for part, count in (("train", 16), ("valid", 8)):
        said = json.loads((data / part / "annotations.json").read_text())
        assert [one["id"] for one in said["images"]] == list(range(count))
        assert [one["id"] for one in said["annotations"]] == list(range(1, len(said["annotations"]) + 1))
        for image in said["images"]:
            mask = np.array(Image.open(data / part / "masks" / image["file_name"]))
            pixels = np.array(Image.open(data / part / "images" / image["file_name"]))
            assert (pixels[mask == 0] == 64).all() and (pixels[mask > 0].max(-1) > 64).all()
            of_image = [one for one in said["annotations"] if one["image_id"] == image["id"]]
            assert of_image and sum(one["area"] for one in of_image) == (mask > 0).sum()
            boxed = np.zeros_like(mask)
            for one in of_image:
                left, top, width, height = one["bbox"]
                inside = mask[top : top + height, left : left + width] == one["category_id"]
                assert inside.any(0).all() and inside.any(1).all() and inside.sum() >= one["area"]
                boxed[top : top + height, left : left + width] = 1
            assert not mask[boxed == 0].any()


def test_parts_of_a_scene_that_are_there_are_kept(data, items):
    first = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    scenes.write(data, {"train": 16, "valid": 8}, items)
    assert first == {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}


def test_little_of_an_item_is_covered_by_later_ones():
    random = np.random.default_rng(0)
    owner = np.ones((scenes.SIZE, scenes.SIZE), np.uint8)
    assert scenes._place(np.ones((60, 60), bool), owner, [scenes.SIZE**2], random) is None
    assert scenes._place(np.ones((10, 10), bool), owner, [scenes.SIZE**2], random) is not None


def run_example(task, *arguments, monkeypatch, name="__main__"):
    """Run the example as a script, or import it by another name; returns what it defines."""
    script = EXAMPLES / task / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.syspath_prepend(str(script.parent))
    for name_beside in ("networks", "coco", "voc", "folders", "sentences"):
        monkeypatch.delitem(sys.modules, name_beside, raising=False)
    return runpy.run_path(str(script), run_name=name)


@pytest.fixture
def folders(tmp_path):
    """Bright and dark images of odd sizes, in a folder each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 24), ("valid", 8)):
        for name, mean in (("bright", 180), ("dark", 60)):
            (folder := tmp_path / "folders" / part / name).mkdir(parents=True)
            for number in range(count // 2):
                size = (*random.integers(16, 40, 2), 3)
                pixels = random.integers(mean - 50, mean + 50, size).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "folders"


def test_a_classifier_is_trained_compressed_and_measured_in_openvino(folders, tmp_path, monkeypatch, capsys):
    given = ["--train", folders / "train", "--valid", folders / "valid", "--model", "residual", "--size", 16, "--batch", 8]
    float_ = ["--stack", "float", "--epochs", 4, "--lr", "1e-2", "--output", tmp_path / "float"]
    run_example("classification", *given, *float_, monkeypatch=monkeypatch)
    start = ["--start", tmp_path / "float" / "model.pt", "--epochs", 1, "--stack", "int8", "--output", tmp_path / "int8"]
    for _ in range(2):
        capsys.readouterr()
        run_example("classification", *given, *start, monkeypatch=monkeypatch)
    assert "epoch 1 of" not in capsys.readouterr().out  # the checkpoint was the last
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("float", "int8")]
    assert [one["score"] for one in results] == [100, 100] and results[1]["bytes"] < 0.4 * results[0]["bytes"]
    run_example("classification", *given, *start[:-3], "binary", "--output", tmp_path / "binary", monkeypatch=monkeypatch)
    assert json.loads((tmp_path / "binary" / "result.json").read_text())["score"] > 0
    (folders / "valid" / "grey").mkdir()
    with pytest.raises(SystemExit, match="has other classes.*grey"):
        run_example("classification", *given, *start, monkeypatch=monkeypatch)


def test_a_segmenter_is_trained_compressed_and_measured_in_openvino(data, tmp_path, monkeypatch, capsys):
    given = ["--train", data / "train", "--valid", data / "valid", "--classes", 3, "--batch", 4]
    run_example(
        "segmentation",
        *given,
        "--stack",
        "float",
        "--epochs",
        2,
        "--lr",
        1e-2,
        "--output",
        tmp_path / "float",
        monkeypatch=monkeypatch,
    )
    start = ["--start", tmp_path / "float" / "model.pt", "--epochs", 1, "--stack", "sparse"]
    run_example("segmentation", *given, *start, "--output", tmp_path / "sparse", monkeypatch=monkeypatch)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("float", "sparse")]
    assert all(one["trained_on"] == 16 and 0 < one["score"] <= 100 for one in results)
    assert results[1]["bytes"] < 0.5 * results[0]["bytes"]
    capsys.readouterr()
    run_example("segmentation", *given, *start, "--output", tmp_path / "sparse", monkeypatch=monkeypatch)
    assert "epoch 1 of" not in capsys.readouterr().out  # the checkpoint was the last
    assert json.loads((tmp_path / "sparse" / "result.json").read_text()) == results[1]
    run_example("segmentation", *given, *start[:-1], "binary", "--output", tmp_path / "binary", monkeypatch=monkeypatch)
    assert 0 < json.loads((tmp_path / "binary" / "result.json").read_text())["score"] <= 100
    for kind in ("images", "masks"):
        first = min((data / "valid" / kind).iterdir())
        Image.open(first).crop((0, 0, 90, 96)).save(first)
    with pytest.raises(SystemExit, match="sides of 90 pixels: unet takes multiples of 16"):
        run_example("segmentation", *given, "--output", tmp_path / "odd", monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.full((4, 4), 1), None),
        (np.full((4, 4), 2), "has class 2, beyond the 2 of --classes, 0 to 1"),
        (np.diag([0, 255, 255, 0]), "write 1 for the second"),
        (np.zeros((4, 6)), "has 6 x 4 pixels, and .*one.jpg 4 x 4"),
        (np.zeros((4, 4, 3)), "is a picture of 3 colours"),
    ],
)
def test_what_is_no_mask_of_an_image_is_told(mask, told, tmp_path, monkeypatch):
    masked = runpy.run_path(str(EXAMPLES / "segmentation" / "masked.py"))["Masked"]
    for kind, name, pixels in ("images", "one.jpg", np.zeros((4, 4, 3))), ("masks", "one.png", mask):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / name)
    if told is None:
        assert masked(tmp_path, 2)[0][1].tolist() == mask.tolist()
    else:
        with pytest.raises(SystemExit, match=told):
            masked(tmp_path, 2)[0]
    (tmp_path / "images" / "one.jpg").unlink()
    with pytest.raises(SystemExit, match="images has none for 1 of masks, as for one.png"):
        masked(tmp_path, 2)
    with pytest.raises(SystemExit, match="images is no folder: .*none has to hold images and masks"):
        masked(tmp_path / "none", 2)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("text,label\nGood,1\nBad,0\n", None),
        ("\ufefftext,label\nGood,1\nBad,0\n", None),
        ("sentence,label\nGood,1\n", "has no column text, but sentence, label"),
        ("", "has no column label and text, but nothing"),
        ("text,label\n", "has no rows"),
        ("text,label\nGood,positive\n", "row 1 of .* has label 'positive': write a whole number"),
        ("text,label\nGood,1\n,0\n", "row 2 of .* has no text"),
        ("text,label\nGood,0\n", "has label 0 alone"),
        ("text,label\nGood,2\n", "row 1 of .* has label 2, and what is trained on has 0 to 1"),
    ],
)
def test_what_is_no_file_of_sentences_is_told(lines, told, tmp_path):
    sentences = runpy.run_path(str(EXAMPLES / "language" / "sentences.py"))["Sentences"]
    (file := tmp_path / "valid.csv").write_text(lines, encoding="utf-8")
    read = partial(sentences, file, lambda text, **options: {"input_ids": [1], "attention_mask": [1]}, 8)
    if told is None:
        assert [read()[place]["labels"] for place in range(2)] == [1, 0] and read().classes == 2
    else:
        with pytest.raises(SystemExit, match=told):
            read(classes=2 if "trained on" in told else None)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a/1.png", "b/1.png", "b/.DS_Store"], None),
        (["a/1.png"], "has a alone: .* a folder of images for each class"),
        (["1.png"], "has none: .* a folder of images for each class"),
        (["a/.DS_Store", "b/.DS_Store"], "has no images in its folders a, b"),
        (["a/1.png", "b/notes.txt"], "notes.txt is no image: take it out"),
    ],
)
def test_what_is_no_folder_of_classes_is_told(files, told, tmp_path):
    folders = runpy.run_path(str(EXAMPLES / "classification" / "folders.py"))["Folders"]
    for name, mode in zip(files, ("RGBA", "L", "RGB")):
        (path := tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new(mode, (6, 4)).save(path) if path.suffix == ".png" else path.write_text("nothing")
    if told is None:
        assert [image.shape for image, _ in (folders(tmp_path, 4)[place] for place in range(2))] == [(3, 4, 4)] * 2
    else:
        with pytest.raises(SystemExit, match=told):
            [folders(tmp_path, 4)[place] for place in range(2)]


def test_mean_iou_is_of_the_classes_that_there_are(tmp_path, monkeypatch):
    script = run_example("segmentation", monkeypatch=monkeypatch, name="train")
    monkeypatch.setattr(
        script["openvino"], "Core", lambda: type("Core", (), {"compile_model": lambda self, *_: lambda x: [x]})()
    )
    found = torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 1]]]), 4).permute(0, 3, 1, 2)
    masks = torch.tensor([[[0, 1, 1, 255]]])
    assert script["mean_iou"]("", [(found, masks)], 4) == pytest.approx(50.0)  # 1 of 2 and 1 of 2


@pytest.fixture
def reader(monkeypatch):
    """The example's own reader of COCO's format, with images of 16 x 16."""
    pytest.importorskip("pycocotools")
    path = EXAMPLES / "detection" / "coco.py"
    monkeypatch.syspath_prepend(str(path.parent))
    return runpy.run_path(str(path), run_name="coco")


def test_a_folder_without_annotations_is_told(reader, tmp_path):
    for data in (tmp_path, tmp_path / "train.txt"):
        with pytest.raises(SystemExit, match="is no file: name a folder of images and annotations.json"):
            reader["Annotated"](data, 32)


def test_boxes_of_a_mirrored_scene_lie_where_its_items_do(data, reader, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_: torch.zeros(()))
    plain, mirrored = (reader["Annotated"](data / "train", 32, mirrored=mirrored) for mirrored in (False, True))
    for (image, target), (turned, of_turned) in zip(plain, mirrored):
        assert torch.equal(image.flip(2), turned) and torch.equal(target["labels"], of_turned["labels"])
        for (left, top, right, bottom), (a, b, c, d) in zip(target["boxes"].tolist(), of_turned["boxes"].tolist()):
            assert (a, b, c, d) == (32 - right, top, 32 - left, bottom)


OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
SIDES = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def as_voc(folder, root, hard):
    """The scenes in `folder` as VOC writes them, those in the list alone difficult where `hard` says so."""
    said = json.loads((folder / "annotations.json").read_text())
    names = {one["id"]: one["name"] for one in said["categories"]}
    for kind in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / kind).mkdir(parents=True)
    for image in said["images"]:
        objects = [
            OBJECT.format(
                names[one["category_id"]], int(hard(one)), SIDES.format(left + 1, top + 1, left + width, top + height)
            )
            for one in said["annotations"]
            if one["image_id"] == image["id"]
            for left, top, width, height in [one["bbox"]]
        ]
        name, size = image["file_name"], "<width>{width}</width><height>{height}</height>".format(**image)
        (root / "JPEGImages" / name).write_bytes((folder / "images" / name).read_bytes())
        text = f"<annotation><filename>{name}</filename><size>{size}</size>{''.join(objects)}</annotation>"
        (root / "Annotations" / name).with_suffix(".xml").write_text(text)
    (listed := root / "ImageSets/Main/some.txt").write_text("".join(f"{i['file_name'][:-4]}  1\n" for i in said["images"][2:]))
    return listed


def test_lists_of_voc_are_read_as_the_same_scenes_in_the_format_of_coco(data, reader, tmp_path):
    coco = reader["Annotated"](data / "train", 16)
    voc = reader["Annotated"](as_voc(data / "train", tmp_path / "voc", hard=lambda one: one["image_id"] == 3), 16)
    assert len(voc) == len(coco) - 2
    said = [[one["name"] for one in some.coco.loadCats(some.categories)] for some in (coco, voc)]
    for position, (image, target) in enumerate(voc):
        same, expected = coco[position + 2]
        assert torch.equal(image, same)
        if position + 2 == 3:  # difficult, all of it
            assert len(target["boxes"]) == 0
            continue
        assert torch.equal(target["boxes"], expected["boxes"])
        assert [said[1][i - 1] for i in target["labels"]] == [said[0][i - 1] for i in expected["labels"]]


@pytest.mark.parametrize(("found", "score"), [("all", 100.0), ("none", 0.0), ("elsewhere", 0.0)])
def test_mean_precision_is_that_of_what_a_file_finds(data, reader, monkeypatch, found, score):
    """In images of half the size, whose boxes are to be told in the scene's own pixels."""
    images = reader["Annotated"](data / "valid", 16)
    looks = iter(range(len(images)))

    def network(_):
        target = images[next(looks)][1]
        count = 0 if found == "none" else None
        boxes = target["boxes"][:count] + (0 if found == "all" else 50)
        return {"boxes": boxes.numpy(), "scores": np.ones(len(boxes), np.float32), "labels": target["labels"][:count].numpy()}

    network.outputs = [
        type("Output", (str,), {"names": property(lambda self: {f"0.{self}"})})(one) for one in ("boxes", "scores", "labels")
    ]
    monkeypatch.setattr(reader["openvino"], "Core", lambda: type("Core", (), {"compile_model": lambda self, *_: network})())
    assert reader["mean_precision"]("", images) == pytest.approx(score, abs=1e-6)


TASK = Task(
    *("small", "Small", "score in OpenVINO", "About."),
    stacks={FLOAT: Stack("FP32"), "int8": Stack("INT8", ("--epochs", "3"), 0.2), "binary": Stack("binary", networks=("a",))},
    networks={"a": lambda: ["--model", "a"], "b": lambda: ["--model", "b"]},
    data=lambda folder, quick: [],
    start=lambda folder: ["--start", str(folder / "model.pt")],
)


def test_annotations_that_say_little_are_read_and_those_of_nothing_are_told(reader):
    box = {"id": 7, "image_id": 1, "category_id": 90, "bbox": [1, 2, 3, 4]}
    said = {
        "images": [{"id": 1}],
        "categories": [{"id": 90, "name": "cat"}],
        "annotations": [box, box | {"bbox": [1, 2, 0, 4]}],
    }
    (kept,) = reader["whole"](said, "file.json")["annotations"]
    assert kept == box | {"iscrowd": 0, "area": 12}
    with pytest.raises(SystemExit, match="file.json: annotation 7 has category_id 91, which is not in categories"):
        reader["whole"](said | {"annotations": [box | {"category_id": 91}]}, "file.json")


def test_every_float_model_runs_before_what_starts_from_it():
    wanted = runs(TASK, ["a", "b"], ["int8", "binary"], 2)
    assert [(run.network, run.stack) for run in wanted[:5]] == [
        ("a", FLOAT),
        ("a", "int8"),
        ("a", "binary"),
        ("b", FLOAT),
        ("b", "int8"),
    ]
    assert [run.seed for run in wanted] == [0] * 5 + [1] * 5
    given = wanted[1].command(TASK, Path("out"), ["--train", "x"], ["--epochs", "1"])
    assert given == [
        *("--train", "x", "--model", "a", "--start", "out/a/seed0/float/model.pt", "--epochs", "3"),
        *("--stack", "int8", "--seed", "0", "--output", "out/a/seed0/int8", "--epochs", "1"),
    ]


def leave(folder, network, stack, seed, score, epochs=1):
    path = Run(network, stack, seed).folder(folder)
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps({"score": score, "bytes": 1000, "epochs": epochs, "trained_on": 16}))


def test_drops_are_against_the_float_model_of_the_same_seed(tmp_path):
    for seed, (score, quantized) in enumerate([(80.0, 79.9), (60.0, 59.8), (70.0, 69.85)]):
        leave(tmp_path, "a", FLOAT, seed, score, epochs=5)
        leave(tmp_path, "a", "int8", seed, quantized)
        leave(tmp_path, "b", FLOAT, seed, score)
        leave(tmp_path, "b", "int8", seed, score - 1)
    first, second = table.sections(TASK, recorded.finished(TASK, tmp_path, 3, "here"))
    drop = next(figure for figure in first.figures if figure.quantity == "drop")
    assert drop.value == pytest.approx(0.15) and drop.high == pytest.approx(0.2) and drop.verdict == MET
    assert next(figure for figure in second.figures if figure.quantity == "drop").verdict == MISSED
    assert "Not run: binary." in first.notes and not any("Not run" in note for note in second.notes)
    assert "5 epochs of 16, seeds 0, 1, 2: FP32." in first.notes


def test_a_row_of_another_machine_stays_with_the_float_model_it_started_from(tmp_path):
    for seed in range(2):
        leave(tmp_path / "then", "a", FLOAT, seed, 80.0)
        leave(tmp_path / "then", "a", "int8", seed, 79.5, epochs=2)
    recorded.write(TASK, tmp_path, recorded.finished(TASK, tmp_path / "then", 2, "there"))
    leave(tmp_path / "now", "a", FLOAT, 1, 60.0)
    leave(tmp_path / "now", "a", "int8", 1, 58.5)
    both = recorded.read(TASK, tmp_path) | recorded.finished(TASK, tmp_path / "now", 2, "here")
    (section,) = table.sections(TASK, both)
    drop = next(figure for figure in section.figures if figure.quantity == "drop")
    assert (drop.low, drop.high) == (0.5, 1.5)
    assert (
        "2 epochs of 16 (there), seed 0: INT8." in section.notes
        and "1 epoch of 16 (here), seed 1: FP32; INT8." in section.notes
    )
    recorded.write(TASK, tmp_path, both)
    assert recorded.read(TASK, tmp_path) == both


def test_plots_have_a_bar_for_every_drop_and_every_file(tmp_path):
    leave(tmp_path, "a", FLOAT, 0, 80.0)
    leave(tmp_path, "a", "int8", 0, 79.5)
    leave(tmp_path, "b", FLOAT, 0, 80.0)  # of which there is nothing to compare
    drop, size = plots.write("small", table.sections(TASK, recorded.finished(TASK, tmp_path, 1, "here")), tmp_path)
    assert drop.name == "small_a_drop.svg" and drop.read_text().count("<rect") == size.read_text().count("<rect") - 1
    assert ">+0.50<" in drop.read_text() and ">1 kB<" in size.read_text()


def test_no_bar_is_judged_on_fewer_than_three_seeds(tmp_path):
    for seed in range(2):
        leave(tmp_path, "a", FLOAT, seed, 80.0)
        leave(tmp_path, "a", "int8", seed, 90.0)
    (section,) = table.sections(TASK, recorded.finished(TASK, tmp_path, 3, "here"))
    assert all(figure.verdict is None for figure in section.figures)
    assert "No bar is judged on fewer than 3 seeds." in section.notes
    assert "Brackets are the least and the most of the seeds." in section.notes


def test_what_starts_from_a_float_model_that_failed_is_not_run(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setitem(command.TASKS, "small", TASK)
    monkeypatch.setattr(command.subprocess, "run", lambda given, **_: ran.append(given) or type("Done", (), {"returncode": 1}))
    assert command.main(["small", "--networks", "a", "--folder", str(tmp_path), "--", "--limit", "3"]) == 1
    assert len(ran) == 1 and ran[0][-2:] == ["--limit", "3"]
    assert "starts from the float model" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["small", "--only", "nothing"])
