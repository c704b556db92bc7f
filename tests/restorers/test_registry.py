import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from restorers import Restorer, available, load_restorer, save_restorer
from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.swin import SwinRestorer
from runtime.errors import UserError

NAFNET = {"width": 4, "enc_blk_nums": (1, 1), "dec_blk_nums": (1, 1)}
PROMPTIR = {"dim": 8, "num_blocks": (1, 1, 1, 1), "prompt_dims": (4, 4, 8), "prompt_sizes": (4, 4, 4)}
SWIN = {"encoder_kwargs": {"embed_dim": 8, "num_heads": (1, 1, 1, 1), "window_size": 2}, "stem_width": 4}
SWIN_V2 = SWIN | {"encoder": "swinv2_tiny_window8_256"}


@pytest.mark.parametrize(
    ("kind", "config"), [(NAFNet, NAFNET), (PromptIR, PROMPTIR), (SwinRestorer, SWIN), (SwinRestorer, SWIN_V2)]
)
@torch.no_grad()
def test_saved_restorers_load_again(named_weights, bundle, kind, config):
    network = named_weights(kind(**config))
    network.load_state_dict({name: value.half() for name, value in network.state_dict().items()})  # as files hold them
    folder = save_restorer(network, bundle / "bundled" / "mine", ["rain", "haze"], recipe="mine.yaml")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert available() == {"mine": ("rain", "haze")}
    restorer = load_restorer("mine", device="cpu")
    assert (restorer.name, restorer.trained_for) == ("mine", ("rain", "haze"))
    assert restorer.network.arguments == network.arguments
    image = torch.rand(1, 3, 32, 64)  # a multiple of what NAFNet, which pads by zeros, would pad to
    torch.testing.assert_close(restorer(image), network(image).clamp(0, 1), atol=1e-5, rtol=0)
    by_path = load_restorer(folder, device="cpu")
    assert torch.equal(by_path(image), restorer(image))


def test_saving_again_replaces(bundle):
    folder = bundle / "bundled" / "mine"
    save_restorer(NAFNet(**NAFNET), folder, ["rain"])
    save_restorer(PromptIR(**PROMPTIR), folder, ["snow"])
    assert load_restorer("mine", "cpu").network.architecture == "promptir"


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "a.safetensors", "a.bin", "a.pth.tar", "a.PTH"])
def test_files_of_the_user(bundle, name):
    network = NAFNet(**NAFNET)
    path = bundle / "models" / name
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    assert available() == {"a": ()}
    for asked in ("a", name, path, str(path)):
        restorer = load_restorer(asked, device="cpu")
        assert restorer.name == "a" and restorer.trained_for == ()


def test_files_of_the_user_whose_names_are_taken(bundle):
    save_restorer(NAFNet(**NAFNET), bundle / "bundled" / "nafnet", ["rain"])
    for name in ("nafnet.pth", "mine.pt", "mine.pth"):
        torch.save(PromptIR(**PROMPTIR).state_dict(), bundle / "models" / name)
    assert list(available()) == ["nafnet", "mine", "mine.pth", "nafnet.pth"]
    assert load_restorer("nafnet", "cpu").network.architecture == "nafnet"
    assert load_restorer("nafnet.pth", "cpu").network.architecture == "promptir"


def test_every_kind_of_image_comes_back_as_it_was():
    restorer = Restorer("double", _Double())
    array = np.random.default_rng(0).integers(0, 128, (13, 22, 3), dtype=np.uint8)
    expected = array * 2
    image = Image.fromarray(array)
    assert np.array_equal(np.asarray(restorer(image)), expected)
    assert np.array_equal(restorer(array), expected)
    floats = restorer((array / 255).astype(np.float64))
    assert floats.dtype == np.float64 and np.allclose(floats, expected / 255, atol=1e-6)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(restorer(tensor), tensor * 2)
    assert torch.equal(restorer(tensor[None]), tensor[None] * 2)
    half = restorer((tensor / 255).half())
    assert half.dtype == torch.float16 and half.shape == tensor.shape
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(array[..., 0]))
    restored = restorer(transparent)
    assert restored.mode == "RGBA" and np.array_equal(np.asarray(restored)[..., 3], array[..., 0])
    assert restorer(image.convert("L")).mode == "RGB"
    palette = Image.new("P", (4, 5))
    palette.info["transparency"] = 0
    assert restorer(palette).getpixel((0, 0)) == (0, 0, 0, 0)
    image.getexif()[0x0112] = 6
    assert restorer(image).size == (13, 22), "upright"
    assert np.array_equal(np.asarray(image), array), "what was given must not change"


@pytest.mark.parametrize(
    "image",
    [
        "photo.png",
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), 200.0),
        np.full((4, 4, 3), np.nan),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 4, dtype=torch.int32),
    ],
)
def test_refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match="image"):
        Restorer("double", _Double())(image)


class _Double(torch.nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 100, -100])
def test_damaged_files(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    state = NAFNet(**NAFNET).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"^a{suffix} is damaged or no"):
        load_restorer(path)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_of_a_training(tmp_path, kind, old_format):
    """Averaged weights of another precision within names of several wrappers, and all that lies beside them."""
    network = NAFNet(**NAFNET)
    optimiser = torch.optim.AdamW(network.parameters())
    sum(parameter.square().sum() for parameter in network.parameters()).backward()
    optimiser.step()
    averaged = {f"module._orig_mod.{name}": value.to(kind) for name, value in network.state_dict().items()}
    content = {
        "epoch": np.int64(3),
        "best_psnr": np.float32(31.5),
        "losses": np.linspace(0, 1, 5),
        "names": np.array(["haze", None], dtype=object),
        "random": (np.random.get_state(), np.random.default_rng(0), torch.get_rng_state()),
        "optimizer": optimiser.state_dict(),
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, 10).state_dict(),
        "net_d": {"params": torch.nn.BatchNorm2d(4).state_dict()},
        "net_g": {"params": {name: value + 1 for name, value in averaged.items()}, "params_ema": averaged},
    }
    path = tmp_path / "best.pth.tar"
    for saved in (content, [3, content]):
        torch.save(saved, path, _use_new_zipfile_serialization=not old_format)
        found = load_restorer(path, "cpu").network.state_dict()
        assert all(torch.equal(found[name], value.to(kind).float()) for name, value in network.state_dict().items())


def test_other_mistakes(tmp_path, bundle):
    (tmp_path / "a.onnx").write_text("")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "unknown.pth")
    torch.save(NAFNet(img_channel=6, out_channel=3, **NAFNET).state_dict(), tmp_path / "six.pth")
    for name, sentence in {
        tmp_path / "a.onnx": "must end in .safetensors",
        tmp_path / "list.pth": "holds no weights but a list",
        tmp_path / "unknown.pth": "unknown.pth: These weights belong to none",
        tmp_path / "six.pth": "six.pth turns 6 channels into 3",
        tmp_path / "missing.pth": "There is no file",
        tmp_path: "no readable config.json",
        "nafnet": "There is no restorer 'nafnet'; there are none yet",
        "": "Name a restorer",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            load_restorer(name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "unet"}, "no architecture 'unet'"),
        ({"config": {"width": "wide"}}, "mine/config.json: the setting 'width' must be a whole number, not 'wide'"),
        ({"config": {"depth": 3}}, "mine/config.json: there is no setting 'depth'"),
        ({"config": {"width": 8}}, "do not fit nafnet"),
        ({"config": None}, "not the config of a restorer"),
        ({"architecture": ["nafnet"]}, "not the config of a restorer"),
        ({"trained_for": "rain"}, "'trained_for' must be a list of names"),
        ({"config": NAFNET | {"width": float("nan")}}, "'width' must be a whole number"),
        ({"config": NAFNET | {"width": -4}}, "'width' must be from 0"),
        ({"config": NAFNET | {"enc_blk_nums": [10**9, 1]}}, "'enc_blk_nums' must be from 0 to 512"),
        ({"config": NAFNET | {"enc_blk_nums": 2}}, "'enc_blk_nums' must be a list"),
        ({"config": NAFNET | {"enc_blk_nums": [1]}}, "No nafnet can be built"),
        ({"architecture": "swin", "config": SWIN | {"pretrained": True}}, "'encoder' must name a Swin"),
        ({"architecture": "swin", "config": SWIN | {"encoder": "hf-hub:a/b"}}, "'encoder' must name a Swin"),
        (
            {"architecture": "swin", "config": {"encoder_kwargs": {"checkpoint_path": "evil.pth"}}},
            "encoder_kwargs: there is no setting 'checkpoint_path'",
        ),
    ],
)
def test_broken_configs(bundle, change, sentence):
    folder = save_restorer(NAFNet(**NAFNET), bundle / "bundled" / "mine", [])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=sentence):
        load_restorer("mine")


def test_a_hub_repository(bundle, monkeypatch):
    import huggingface_hub

    folder = save_restorer(NAFNet(**NAFNET), bundle / "hub", ["snow"])
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        if file not in ("config.json", "model.safetensors"):
            raise FileNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_restorer("somebody/nafnet", "cpu").trained_for == ("snow",)
    assert load_restorer("somebody/nafnet/model.safetensors", "cpu").trained_for == ()
    assert asked[-1] == ("somebody/nafnet", "model.safetensors")
    with pytest.raises(ValueError, match="the Hub did not give it"):
        load_restorer("somebody/nafnet/other.pth")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_weights_that_are_not_numbers_are_named(bundle, kind):
    network = NAFNet(**NAFNET)
    with torch.no_grad():
        network.ending.bias[1] = float("nan")
    if kind == "folder":
        save_restorer(network, bundle / "bundled" / "mine", [])
        where = "mine/model.safetensors"
    else:
        where = "mine.pth"
        torch.save(network.state_dict(), bundle / "models" / where)
    with pytest.raises(UserError, match=f"^{where}: The tensor 'ending.bias' holds values that are not numbers"):
        load_restorer("mine", device="cpu")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-2, 40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(("kind", "config"), [(NAFNet, NAFNET), (PromptIR, PROMPTIR), (SwinRestorer, SWIN)])
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_config_is_a_restorer_or_a_sentence(bundle, kind, config, data):
    folder = bundle / "bundled" / "mine"
    if not folder.is_dir():
        save_restorer(kind(**config), folder, ["rain"])
    original = (folder / "config.json").read_text()
    written = json.loads(original)
    inside = data.draw(st.booleans())
    part = written["config"] if inside else written
    part[data.draw(st.sampled_from(sorted(part)) | st.text(max_size=5))] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(written))
    try:
        load_restorer("mine", "cpu")(np.zeros((16, 16, 3), np.uint8))
    except UserError as error:
        assert "mine" in str(error) or "architecture" in str(error)
    finally:
        (folder / "config.json").write_text(original)
