import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from restorers import save_restorer
from restorers.jobs import Failure, Request, Restorers, Result, Tiles, measuring, read_request, restore_photo
from restorers.nafnet import NAFNet
from runtime.errors import OUR_FAULT, UserError

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 200, (13, 20, 3), dtype=np.uint8))


@pytest.fixture
def brighten(bundle):
    """Two restorers that add 0.2 and 0.4 to every value, and a file that is none."""
    for name, value in (("little", 0.2), ("much", 0.4)):
        network = NAFNet(width=4, enc_blk_nums=(1,), dec_blk_nums=(1,))
        with torch.no_grad():
            network.ending.weight.zero_()
            network.ending.bias.fill_(value)
        save_restorer(network, bundle / "bundled" / name, ["low_light"])
    (bundle / "models" / "broken.pth").write_text("no weights")
    return bundle


def test_results_in_order_and_measured(brighten):
    clean = Image.fromarray(np.asarray(PHOTO) + np.uint8(51))
    events = list(restore_photo(Restorers(), Request(PHOTO, ("little", "much"), clean)))
    assert [event for event in events if isinstance(event, Tiles)] == [
        Tiles("little", 0, 1), Tiles("little", 1, 1), Tiles("much", 0, 1), Tiles("much", 1, 1),
    ]  # fmt: skip
    little, much = (event for event in events if isinstance(event, Result))
    assert np.array_equal(np.asarray(little.image), np.asarray(clean))
    assert little.quality.psnr == torch.inf and little.quality.ssim == pytest.approx(1)
    assert 13 < much.quality.psnr < 17 and much.quality.ssim < 1
    assert little.seconds > 0
    results = [e for e in restore_photo(Restorers(), Request(PHOTO, ("much",))) if isinstance(e, Result)]
    assert results[0].quality is None


def test_a_broken_restorer_does_not_stop_the_others(brighten):
    events = list(restore_photo(Restorers(), Request(PHOTO, ("broken", "little"))))
    failure, result = (event for event in events if isinstance(event, Failure | Result))
    assert failure.name == "broken" and "damaged or no PyTorch file" in failure.sentence
    assert result.name == "little"


def test_an_image_too_small_for_ssim(brighten):
    small = PHOTO.resize((5, 30))
    events = restore_photo(Restorers(), Request(small, ("little",), small))
    (result,) = (event for event in events if isinstance(event, Result))
    assert result.quality.ssim is None and 13 < result.quality.psnr < 15


def test_restorers_are_loaded_once_unless_their_file_changes(brighten):
    restorers = Restorers()
    little = restorers.get("little")
    assert restorers.get("little") is little
    save_restorer(restorers.get("much").network, brighten / "bundled" / "little", [])
    assert restorers.get("little").network.ending.bias[0] == restorers.get("much").network.ending.bias[0]


def test_what_failed_is_told(brighten, caplog):
    restorers = Restorers()
    for name, error in (("little", RuntimeError("It has no head.")), ("much", MemoryError())):

        def fail(*_, error=error):
            raise error

        restorers.get(name).network.register_forward_pre_hook(fail)
    events = restore_photo(restorers, Request(PHOTO, ("little", "much")))
    told = {event.name: event.sentence for event in events if isinstance(event, Failure)}
    assert told["little"] == OUR_FAULT and "It has no head." in caplog.text, "a fault of ours is for the log"
    assert "too little memory" in told["much"]


def test_closing_stops_the_work_and_frees_the_way(brighten):
    restorers, begun, go_on, calls = Restorers(), threading.Event(), threading.Event(), []

    def wait(module, inputs):
        calls.append(module)
        begun.set()
        go_on.wait(10)

    networks = [restorers.get(name).network for name in ("little", "much")]
    for network in networks:
        network.register_forward_pre_hook(wait)
    events = restore_photo(restorers, Request(PHOTO, ("little", "much")))
    while not begun.is_set():
        next(events)
    assert next(events) in (None, Tiles("little", 0, 1)), "a sign of life while the network computes"
    events.close()
    go_on.set()
    after = [e.name for e in restore_photo(restorers, Request(PHOTO, ("much",))) if isinstance(e, Result)]
    assert after == ["much"] and calls == networks


def test_pairs_are_measured_with_each_restorer(brighten):
    clean = Image.fromarray(np.asarray(PHOTO) + np.uint8(51))
    measure = measuring(Restorers(), ["broken", "little", "little"])
    *events, values = measure([(PHOTO, clean), (clean, clean)])
    (failure,) = (event for event in events if isinstance(event, UserError))
    assert str(failure).startswith("broken: ") and "damaged or no PyTorch file" in str(failure)
    shares = [event[0] for event in events if isinstance(event, tuple)]
    assert shares == [0, 0.5, 0.75] and all("little is at work" in e[1] for e in events[-3:] if isinstance(e, tuple))
    assert [list(of_pair) for of_pair in values] == [["psnr", "ssim", "little_psnr", "little_ssim"]] * 2
    assert values[0]["little_psnr"] == values[1]["psnr"] == torch.inf
    assert values[0]["psnr"] == pytest.approx(-20 * np.log10(0.2), abs=0.01) and values[1]["little_psnr"] < 20


def test_what_is_measured_must_be_named(brighten):
    *_, (values,) = measuring(Restorers(), None)([(PHOTO, PHOTO)])
    assert {"little_psnr", "much_psnr"} < set(values), "all that can be loaded"
    for names, sentence in (([], "Choose at least one"), (["unheard"], "no restorer 'unheard'"), (5, "list of words")):
        with pytest.raises(UserError, match=sentence):
            measuring(Restorers(), names)


def test_restorers_that_are_not_chosen_any_more_are_freed(brighten):
    restorers = Restorers()
    little = weakref.ref(restorers.get("little").network)
    list(restore_photo(restorers, Request(PHOTO, ("little", "much"))))
    assert little() is not None
    list(restore_photo(restorers, Request(PHOTO, ("much",))))
    assert little() is None


def test_what_is_asked(brighten):
    path = brighten / "photo.png"
    PHOTO.save(path)
    PHOTO.resize((10, 10)).save(brighten / "small.png")
    request = read_request(str(path), ["much", "little", "much"], str(path))
    assert request.names == ("much", "little") and request.photo.size == request.clean.size == (20, 13)
    assert read_request(str(path), "little").clean is None
    for arguments, sentence in {
        (None, ("little",)): "There is no photograph yet",
        (str(path), ()): "Choose at least one restorer",
        (str(path), (("little",),)): "Name restorers as a list of words",
        (str(path), 5): "Name restorers as a list of words",
        (str(path), ("little", "unheard")): "no restorer 'unheard'; there are little, much, broken",
        (str(path), (str(brighten / "models" / "broken.pth"),)): "There is no restorer",
        (str(path), ("somebody/repository",)): "There is no restorer",
        (str(path), ("little",), str(brighten / "small.png")): "clean image has 10 × 10 pixels, the photograph 20 × 13",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            read_request(*arguments)


def test_no_restorers_yet(bundle):
    with pytest.raises(ValueError, match="There are no restorers yet"):
        read_request("photo.png", ["nafnet"])
