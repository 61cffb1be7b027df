"""Raw fairseq checkpoints are converted tensor by tensor, and nothing that their pickles name is called."""

import argparse
import io
import pickle
import zipfile
from enum import Enum
from pathlib import Path

import pytest
import torch
from wav2vec2_toys import FRONT, TOY, fairseq_state

from xaibench.errors import WeightsError
from xaibench.tasks.detectors.fairseq_file import main, read_fairseq
from xaibench.tasks.detectors.wav2vec2_aasist import Wav2Vec2AASIST


class Mode(Enum):
    GAUSSIAN = 1


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def checkpoint() -> dict:
    """Return what fairseq saves: options, task state, optimizer history, and the model."""
    args = argparse.Namespace(arch="wav2vec2", layers=[1, 2], mode=Mode.GAUSSIAN, evil=Evil(), seen={"a", "b"})
    state = fairseq_state()
    state["shared"] = state["layer_norm.weight"][:3]  # a view of another tensor's storage
    state["half"], state["count"] = torch.arange(6).half().view(2, 3).T, torch.tensor(7)
    state["parameter"], state["empty"] = torch.nn.Parameter(torch.ones(2)), torch.empty(0)
    return {"args": args, "cfg": {"model": Evil()}, "model": state, "optimizer_history": [{"num_updates": 3}], "extra_state": Evil()}


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "plain"])
def test_every_tensor_is_converted_and_nothing_is_called(tmp_path: Path, monkeypatch, archive: bool):
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint(), "raw.pt", _use_new_zipfile_serialization=archive)
    tensors = read_fairseq(Path("raw.pt"))
    assert not Path("pwned").exists()
    expected = checkpoint()["model"]
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(tensors[key], value.detach())
        assert tensors[key].dtype == value.dtype
    torch.load("raw.pt", weights_only=False)  # the file does call what it names, if asked
    assert Path("pwned").exists()


def test_a_converted_front_end_loads(tmp_path: Path):
    state = fairseq_state()
    torch.save({"args": argparse.Namespace(), "model": state}, tmp_path / "raw.pt")
    main([str(tmp_path / "raw.pt"), str(tmp_path / "front.safetensors")])
    with pytest.raises(WeightsError, match="tensors"):
        Wav2Vec2AASIST(tmp_path / "raw.pt", config=TOY, back_end="random")
    detector = Wav2Vec2AASIST(tmp_path / "front.safetensors", config=TOY, back_end="random")
    assert torch.equal(
        detector.front.encoder.layers[FRONT.depth - 1].attention.q_proj.weight, state["encoder.layers.2.self_attn.q_proj.weight"]
    )


def test_damaged_files_are_refused(tmp_path: Path):
    path = tmp_path / "raw.pt"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], pickle.dumps({"model": 1}), b"text"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"weights must be a fairseq checkpoint, got raw.pt: "):
            read_fairseq(path)
    torch.save({"model": {"a": 1}}, path)
    with pytest.raises(WeightsError, match=r"weights must hold tensors under 'model', got none in raw.pt"):
        read_fairseq(path)


def test_a_storage_of_another_size_is_refused(tmp_path: Path):
    path = tmp_path / "raw.pt"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    shortened = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(shortened, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-4] if name.endswith("data/0") else content)
    path.write_bytes(shortened.getvalue())
    with pytest.raises(WeightsError, match="storage 0 has another size than its tensor"):
        read_fairseq(path)
