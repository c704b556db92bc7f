"""Weights files of any origin: tensors come out, what lies beside them is passed over, and nothing in them is run."""

import argparse
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import sys
import zipfile
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from runtime.errors import UserError
from runtime.weights import SUFFIXES, check_tensors, read_state_dict, weights_suffix

WEIGHTS = {"intro.weight": torch.arange(4.0), "steps": torch.tensor(3)}


class Options(dict):
    """Stands for the many dictionaries with attributes of configuration libraries."""


class Kind(enum.Enum):
    fast = 1


class Slotted:
    __slots__ = ("a",)


def _beside():
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimiser.step()
    options = Options(lr=0.1)
    options.note = "also an attribute"
    slotted = Slotted()
    slotted.a = 1
    return {
        "best_psnr": np.float64(31.5),
        "epoch": np.int64(3),
        "losses": np.linspace(0, 1, 5),
        "optimizer": optimiser.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimiser, 3).state_dict(),
        "scheduler itself": torch.optim.lr_scheduler.StepLR(optimiser, 3),
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2], output=pathlib.Path("runs")),
        "namespace": SimpleNamespace(a=1),
        "options": options,
        "kind": Kind.fast,
        "slotted": slotted,
        "log": collections.defaultdict(list, a=[1]),
        "last": collections.deque([1, 2], 3),
        "when": datetime.datetime(2025, 1, 2),
        "loss": functools.partial(int, base=2),
        "network": network,
        "dtype": np.dtype("float32"),
    }


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("name", sorted(_beside()))
def test_what_training_scripts_save_beside_weights(tmp_path, name, old_format):
    path = tmp_path / "best.pth.tar"
    content = {name: _beside()[name], "state_dict": WEIGHTS}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    if name == "network" and old_format:  # that format keeps the source code of modules among the numbers
        with pytest.raises(UserError, match="was not opened"):
            read_state_dict(path)
        return
    found = read_state_dict(path)["state_dict"]
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], v) for k, v in WEIGHTS.items())


def test_classes_that_are_not_installed(tmp_path, monkeypatch):
    """Nothing is imported for them."""
    module = ModuleType("someones_project.options")
    module.Config = type("Config", (), {"__module__": module.__name__})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "someones_project", ModuleType("someones_project"))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"params": WEIGHTS, "opt": module.Config()}, tmp_path / "a.pth")
    assert torch.equal(read_state_dict(tmp_path / "a.pth")["params"]["intro.weight"], WEIGHTS["intro.weight"])


class Call:
    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", [os.mkdir, os.system, eval, exec, pathlib.Path.touch, np.save, torch.save])
def test_nothing_in_a_file_is_called(tmp_path, function, protocol, old_format):
    """Refused, or passed over where the name is a library's; in neither case does it run."""
    target = tmp_path / "executed"
    arguments = {
        os.mkdir: (str(target),),
        os.system: (f"touch {target}",),
        eval: (f"open({str(target)!r}, 'w')",),
        exec: (f"open({str(target)!r}, 'w')",),
        np.save: (str(target), 0),
        torch.save: (0, str(target)),
    }.get(function, (target,))
    path = tmp_path / "a.pth"
    content = {"params": WEIGHTS, "hook": Call(function, *arguments)}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old_format)
    try:
        read_state_dict(path)
        assert function in (np.save, torch.save), "what an attack calls is refused in words"
    except UserError as error:
        assert "a.pth was not opened" in str(error) and "can run code" in str(error)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_a_raw_pickle_is_refused(tmp_path):
    for protocol in range(6):
        (tmp_path / "a.pt").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "executed")), protocol))
        with pytest.raises(UserError, match=r"a\.pt was not opened|damaged"):
            read_state_dict(tmp_path / "a.pt")
        assert not (tmp_path / "executed").exists()


def test_other_content_is_a_sentence(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.bin")
    for name, sentence in (
        ("whole.pt", r"holds no weights but a Python object\. Save its state_dict"),
        ("program.pt", "is a TorchScript program"),
        ("tensor.bin", "holds no weights but a Tensor"),
    ):
        with pytest.raises(UserError, match=f"{name} {sentence}"):
            read_state_dict(tmp_path / name)


def test_what_is_downloaded_in_place_of_weights(tmp_path):
    for content, sentence in {
        "version https://git-lfs.github.com/spec/v1\n": "the pointer of a file in Git LFS",
        "<!DOCTYPE html><html>Quota exceeded": "a web page",
    }.items():
        for suffix in (".pth", ".safetensors"):
            (tmp_path / f"a{suffix}").write_text(content)
            with pytest.raises(UserError, match=f"a{suffix} is damaged or no .* file: it holds {sentence}"):
                read_state_dict(tmp_path / f"a{suffix}")


def test_safetensors_under_another_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.bin")
    assert torch.equal(read_state_dict(tmp_path / "a.bin")["intro.weight"], WEIGHTS["intro.weight"])


def test_paths_of_python_3_13(tmp_path):
    torch.save({"a": pathlib.PurePosixPath("a"), "params": WEIGHTS}, tmp_path / "a.pth", pickle_protocol=2)
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"cpathlib\nPurePosixPath", b"cpathlib._local\nPosixPath"))
    assert read_state_dict(tmp_path / "b.pth")["params"].keys() == WEIGHTS.keys()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    for suffix in SUFFIXES:
        (folder / f"a{suffix}").write_bytes(content)
        with pytest.raises(UserError, match=f"a{suffix} "):
            read_state_dict(folder / f"a{suffix}")


def test_names_of_weights_files():
    for name, suffix in {"a.PTH": ".PTH", "b.pth.tar": ".pth.tar", "c.bin": ".bin", "d.tar": "", "pth": ""}.items():
        assert weights_suffix(name) == suffix


def test_tensors_that_are_no_weights():
    good = torch.ones(3)
    check_tensors({"a": good, "empty": torch.ones(0), "half": good.half(), "small": good.to(torch.float8_e4m3fn)})
    check_tensors({"a": good * 60000}, torch.float16)
    for wrong, sentence in (
        (good * float("nan"), "not numbers"),
        (good * float("inf"), "not numbers"),
        (good.int(), "int32"),
        (good.bool(), "bool"),
        (good * 1j, "complex64"),
        (good.to_sparse(), "a form of its own"),
        (torch.ones(3, device="meta"), "a form of its own"),
        (good.double() * 1e300, "values up to 1e.300, more than float32 can hold"),
    ):
        with pytest.raises(UserError, match=f"^The tensor 'b' holds .*{sentence}"):
            check_tensors({"a": good, "b": wrong})
    with pytest.raises(UserError, match="more than float16 can hold"):
        check_tensors({"a": good * 70000}, torch.float16)
