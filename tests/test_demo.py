"""The demonstration: its split is honest, its network learns, its command tells the truth about the files."""

from __future__ import annotations

import re

import pytest
import torch

from fxcompress import cli
from fxcompress.demo import digits as demo
from fxcompress.errors import InputError

pytest.importorskip("sklearn")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    return demo.load_digits()


def test_the_test_images_are_held_out(digits):
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.train_images.shape[1:] == (1, 8, 8)
    assert (float(digits.train_images.min()), float(digits.train_images.max())) == (0, 1)
    seen = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in seen for image in digits.test_images)
    shares = torch.bincount(digits.test_labels) / torch.bincount(digits.train_labels)
    assert torch.allclose(shares, torch.full((10,), 0.43), atol=0.02), "each digit has its share"


def test_training_repeats_and_learns(digits):
    shown = []
    with demo.one_thread():
        models = [demo.train(digits, 1, lambda *update: shown.append(update)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()))
    assert shown[-1] == ("training", 20, 20)
    with torch.no_grad():
        answers = models[0](digits.test_images).argmax(1)
    assert (answers == digits.test_labels).float().mean() > 0.6
    assert not models[0].training


def test_the_command_compares_what_it_wrote(tmp_path, capsys):
    folder = tmp_path / "deep" / "demo"
    assert cli.main(["demo", "--epochs", "2", "--out", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "trained on 1,257 images" in shown and "540 other images, held out" in shown
    assert "float layers in float32 (f32 hint) in both" in " ".join(shown.split())
    names = {path.name for path in folder.iterdir()}
    assert names == {"digits-fp32.onnx", "digits-int8.onnx", "quantized.svg", "graphs"}
    files = [(folder / f"digits-{kind}.onnx").stat().st_size for kind in ("fp32", "int8")]
    assert f"{files[0] / files[1]:.1f}x smaller" in shown
    accuracy = [float(value) for value in re.findall(r"accuracy.*?([\d.]+)%.*?([\d.]+)%", shown)[0]]
    assert min(accuracy) > 90 and abs(accuracy[0] - accuracy[1]) < 1
    for path in re.findall(r"^  (\S*demo/\S+)  ", shown, re.MULTILINE):
        assert (tmp_path / path).exists()


def test_measuring_runs_the_files_themselves(tmp_path, digits):
    import fxcompress

    model = demo.ResidualNet((8, 8, 8)).eval()
    images = digits.test_images[:70]
    file = fxcompress.compile(model, [], example_inputs=images[:2]).to_onnx(tmp_path / "model.onnx")
    (measured,) = demo.measure([file], images, runs=3)
    with torch.no_grad():
        assert measured.answers.tolist() == model(images).argmax(1).tolist()
    assert measured.seconds.keys() == {1, demo.BATCH} and min(measured.seconds.values()) > 0
    assert measured.bytes == file.stat().st_size


def test_a_missing_library_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_installed", lambda module: module != "sklearn")
    with pytest.raises(InputError, match=r"the demo needs scikit-learn: pip install 'fxcompress\[demo\]'"):
        demo.require_extras()


def test_a_folder_that_cannot_be_made_is_known_before_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("it trained first"))
    assert cli.main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert "name one that you may write to" in capsys.readouterr().err


def test_a_loss_is_not_shown_as_a_gain():
    from fxcompress.commands.demo import _times

    assert _times(2.0, "faster", "slower") == "[bold]2.0x[/] faster"
    assert _times(0.5, "faster", "slower") == "2.0x slower"
