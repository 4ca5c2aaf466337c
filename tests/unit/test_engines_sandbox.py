"""F16: a photograph that crashes, loops or eats memory in its decoder costs its own view alone, and no baseline JPEG
ever waits for one."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image, ImageCms

from engines.decode import Apart, Decoded, DecodeLimits, ImageFault, decode_photograph
from engines.decoder import PillowDecoder
from engines.golden import golden_pixels
from engines.sandbox import HelperFailed, Sandbox, SandboxLimits

SIZE = 64
LIMITS = DecodeLimits()


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(golden_pixels(128)[0]).save(buffer, kind, **options)
    return buffer.getvalue()


def misbehaving(what: bytes) -> bytes:
    """A good PNG whose comment tells tests/unit/misbehaving_decoder.py what to do."""
    png = encoded("PNG")
    return png[:33] + len(what).to_bytes(4, "big") + b"teSt" + what + b"\0\0\0\0" + png[33:]


@pytest.fixture
def decoder() -> Iterator[PillowDecoder]:
    sandbox = SandboxLimits(cpu_s=0.5, wall_s=10.0, module="misbehaving_decoder")
    decoder = PillowDecoder(SIZE, threads=1, limits=DecodeLimits(memory_bytes=64 << 20), helpers=1, sandbox=sandbox)
    yield decoder
    decoder.close()


def test_death_overrun_and_want_of_memory_cost_their_own_view_alone(decoder: PillowDecoder) -> None:
    deeds = [b"crash", b"loop", b"eat memory", b"exit", b"say nonsense", b"write a file"]
    batch = [blob for deed in deeds for blob in (misbehaving(deed), encoded("PNG"), encoded("JPEG"))]
    results = [future.result() for future in decoder.decode(batch)]
    for deed, bad, png, jpeg in zip(deeds, results[::3], results[1::3], results[2::3], strict=True):
        assert isinstance(bad, ImageFault), deed
        assert bad.code == "decoder_crashed", (deed, bad)
        assert isinstance(png, Decoded) and isinstance(jpeg, Decoded)


def test_the_answer_is_the_same_on_replay_whatever_the_helper_did_before(decoder: PillowDecoder) -> None:
    first, good, again = decoder.decode([misbehaving(b"crash"), encoded("PNG"), misbehaving(b"crash")])
    assert isinstance(good.result(), Decoded)
    assert first.result() == again.result()


def test_a_helper_killed_from_outside_costs_nothing(decoder: PillowDecoder) -> None:
    assert isinstance(decoder.decode([encoded("PNG")])[0].result(), Decoded)
    (helper,) = children()
    os.kill(helper, signal.SIGKILL)
    assert isinstance(decoder.decode([encoded("PNG")])[0].result(), Decoded)
    assert children() not in ([], [helper])


def test_a_baseline_jpeg_does_not_wait_for_a_helper(decoder: PillowDecoder) -> None:
    slow, fast = decoder.decode([misbehaving(b"loop"), encoded("JPEG")])
    assert isinstance(fast.result(), Decoded)
    assert not slow.done()
    assert isinstance(slow.result(), ImageFault)


def test_only_what_a_helper_decodes_is_apart_and_closing_leaves_none_of_it_open() -> None:
    decoder = PillowDecoder(SIZE, threads=1, helpers=1, sandbox=SandboxLimits(cpu_s=0.5, module="misbehaving_decoder"))
    slow, waiting, here, refused = decoder.decode([misbehaving(b"loop"), encoded("PNG"), encoded("JPEG"), b"rubbish"])
    assert [isinstance(square, Apart) for square in (slow, waiting, here, refused)] == [True, True, False, False]
    decoder.close()
    assert slow.done() and waiting.done()


def test_a_helper_holds_no_secrets_and_no_powers(decoder: PillowDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DATABASE__URL", "postgresql://canary")
    decoder.decode([encoded("PNG")])[0].result()
    (helper,) = children()
    proc = Path("/proc") / str(helper)
    environment = (proc / "environ").read_bytes()
    assert b"canary" not in environment and b"ASSAY" not in environment
    limits = dict(line.split("  ", 1) for line in (proc / "limits").read_text().splitlines()[1:])
    assert [limits[name].split()[:2] for name in ("Max file size", "Max core file size", "Max open files")] == [
        ["0", "0"],
        ["0", "0"],
        ["16", "16"],
    ]
    assert limits["Max address space"].split()[0] != "unlimited"
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()
    assert os.getsid(helper) == helper
    assert os.getpriority(os.PRIO_PROCESS, helper) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    shared = proc / "autogroup"  # where the kernel shares the cores among sessions; it lets root alone change many
    assert os.geteuid() or not shared.exists() or shared.read_text().endswith(" nice 5\n")


def test_helpers_end_with_their_owner() -> None:
    decoder = PillowDecoder(SIZE, threads=1)
    assert children() == []  # none before it is needed
    decoder.decode([encoded("PNG")])[0].result()
    (helper,) = children()
    decoder.close()
    assert children() == []
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)


def test_a_helper_that_cannot_start_is_no_fault_of_a_photograph() -> None:
    sandbox = Sandbox(
        helpers=1, size=SIZE, limits=LIMITS, reduced=True, sandbox=SandboxLimits(module="engines.no_such_module")
    )
    for _ in range(2):
        with pytest.raises(HelperFailed, match="exit code 1"):
            sandbox.decode(encoded("PNG"))
    sandbox.close()


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {}), ("JPEG", {"progressive": True})])
def test_a_helper_decodes_as_this_process_does(kind: str, options: dict[str, Any]) -> None:
    blob = encoded(kind, **options) + b"PK\x03\x04 and more"
    sandbox = Sandbox(helpers=1, size=SIZE, limits=LIMITS, reduced=True)
    outside, here = sandbox.decode(blob), decode_photograph(blob, size=SIZE, limits=LIMITS, reduced=True)
    sandbox.close()
    assert isinstance(outside, Decoded) and isinstance(here, Decoded)
    np.testing.assert_array_equal(outside.pixels, here.pixels)
    assert (outside.quality, outside.phash, outside.source_size) == (here.quality, here.phash, here.source_size)
    assert outside.trailing_bytes == here.trailing_bytes == 13


def test_only_what_is_not_baseline_jpeg_starts_a_helper_and_a_proven_profile_needs_none() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoder = PillowDecoder(SIZE, threads=1)
    decoder.decode([encoded("JPEG")])[0].result()
    assert children() == []
    first = decoder.decode([encoded("JPEG", icc_profile=profile)])[0].result()
    (helper,) = children()
    os.kill(helper, signal.SIGKILL)
    second = decoder.decode([encoded("JPEG", icc_profile=profile)])[0].result()
    assert isinstance(first, Decoded) and isinstance(second, Decoded)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert children() in ([], [helper])  # none was started anew
    decoder.close()


def children() -> list[int]:
    """Helpers of this process that live."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [
        child.pid for child in living if any("sandbox_child" in word or "misbehav" in word for word in child.cmdline())
    ]
