"""Whatever is sent to the served app, or put into a file for it: no leak, no hang, no traceback, no wrong answer."""

import httpx
from PIL import Image

from tests import fuzz


def test_fuzz() -> None:
    """The first cases of seed 0; python -m tests.fuzz runs others, and each of them alone."""
    with fuzz.world() as world:
        problems = [
            f"python -m tests.fuzz --seed 0 --case {number}: {problem}"
            for number in range(200)
            for problem in fuzz.run_case(world, 0, number)[1]
            if fuzz.OWN not in problem
        ]
    assert not problems, "\n".join(problems)


def test_fuzz_notices() -> None:
    """An answer with what nobody may see, or of our insides, is a finding."""
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(404)))
    world = fuzz.World.__new__(fuzz.World)
    world.url, world.folder, world.pipeline = "http://here/", fuzz.ROOT / "none", fuzz.ROOT / "none"
    world.foreign, world.client = ["/private.png"], client
    for answer in (
        fuzz.Answer(200, fuzz.SECRET, [""]),
        fuzz.Answer(200, "", [{"path": "/private.png"}]),
        fuzz.Answer(200, "", None, "'NoneType' object has no attribute 'size'"),
        fuzz.Answer(200, "", None, f"{fuzz.ROOT}/app.py is not there."),
        fuzz.Answer(200, "", None, ""),
        fuzz.Answer(200, "", [fuzz.OUR_FAULT]),
        fuzz.Answer(500, "Internal Server Error"),
    ):
        assert list(fuzz.problems_of(world, answer, [])), answer
    assert not list(fuzz.problems_of(world, fuzz.Answer(200, "", None, "Upload a photograph."), []))
    assert fuzz.is_secret(Image.new("RGB", (9, 9), fuzz.SECRET_COLOUR))
