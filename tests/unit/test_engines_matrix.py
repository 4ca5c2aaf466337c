"""The version matrix: what keeps an engine from a machine, which variant a machine gets, and reading the machine."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines.errors import EngineRefused, RefusalCode
from engines.machine import made_with, parsed_cards, processor, this_machine
from engines.manifest import EngineManifest
from engines.matrix import (
    SUPPORTED,
    Card,
    Machine,
    best,
    contains,
    misfits,
    refuse_misfit,
    unsupported,
)
from engines.preprocess import Preprocessing
from engines.release import Release, Target, release_fields, release_from

ROOT = Path(__file__).resolve().parents[2]
ISSUED = datetime(2026, 11, 1, tzinfo=UTC)
H200 = Card(name="NVIDIA H200", capability="9.0", memory_bytes=1 << 37)
T4 = Card(name="Tesla T4", capability="7.5", memory_bytes=1 << 34)
GPU = Machine(
    versions={"tensorrt": "10.6.0", "pycuda": "2026.1", "driver": "580.65.06", "cuda": "13.0"}, opset=21, cards=(H200,)
)


def manifest(target: Target | None = None, *, version: int = 1, opset: int = 17) -> EngineManifest:
    release = Release(version=version, issued_at=ISSUED, target=target) if target is not None else None
    return EngineManifest(
        name="resnet18",
        family="resnet18",
        onnx_sha256="0" * 64,
        golden_sha256="0" * 64,
        precision="int8",
        groups=(),
        embedding_space="s",
        preprocessing=Preprocessing(size=448),
        tiling="whole view",
        embedding_dim=256,
        patch_dim=64,
        patch_grid=(28, 28),
        attention_grid=(14, 14),
        opset=opset,
        calibration=None,
        profiles=(1,),
        release=release,
    )


def on_gpu(*requires: tuple[str, str], capability: str = "") -> Target:
    return Target(backend="tensorrt", capability=capability, requires=requires)


@pytest.mark.parametrize(
    ("target", "backend", "code"),
    [
        (None, "openvino", None),
        (Target(), "onnxruntime", None),
        (on_gpu(), "tensorrt", None),
        (on_gpu(capability="9.0"), "tensorrt", None),
        (on_gpu(("tensorrt", "==10.6.*"), ("driver", ">=550"), ("cuda", ">=12.4,<14")), "tensorrt", None),
        (on_gpu(), "openvino", RefusalCode.WRONG_BACKEND),
        (Target(backend="openvino"), "onnxruntime", RefusalCode.WRONG_BACKEND),
        (on_gpu(capability="8.6"), "tensorrt", RefusalCode.WRONG_GPU),
        (on_gpu(("tensorrt", "==10.13.*")), "tensorrt", RefusalCode.WRONG_VERSION),
        (on_gpu(("driver", ">=590")), "tensorrt", RefusalCode.WRONG_VERSION),
        (on_gpu(("openvino", ">=2026")), "tensorrt", RefusalCode.WRONG_VERSION),
    ],
)
def test_an_engine_is_for_a_machine_or_it_says_why_not(target: Target, backend: str, code: RefusalCode | None) -> None:
    found = misfits(manifest(target), GPU, backend)  # type: ignore[arg-type]
    assert [one.code for one in found] == ([code] if code else [])
    assert all(one.fix and "resnet18" in one.message for one in found)


@pytest.mark.parametrize("opset", [1, 12, 22])
def test_an_unknown_opset_is_told_with_those_that_are_known(opset: int) -> None:
    (fault,) = misfits(manifest(opset=opset), GPU, "tensorrt")
    assert (fault.code, "13 to 21" in fault.fix) == (RefusalCode.WRONG_VERSION, True)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(EngineRefused) as refused:
        refuse_misfit(manifest(on_gpu(("driver", ">=999"), capability="8.6"), opset=30), GPU, "tensorrt")
    told = str(refused.value)
    assert refused.value.code is RefusalCode.WRONG_VERSION
    for part in (
        "opset 30",
        "8.6, and NVIDIA H200 has 9.0",
        "driver >=999 is needed, and 580.65.06",
        "--capability 9.0",
    ):
        assert part in told


def test_without_a_gpu_that_is_said() -> None:
    (fault,) = misfits(manifest(on_gpu(capability="9.0")), replace(GPU, cards=()), "tensorrt")
    assert "no GPU is seen" in fault.message


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        (">=10.6", "10.13.2.6", True),
        ("==10.6.*", "10.6.0", True),
        ("==10.6.*", "10.13.0", False),
        (">=2026.1", "2026.4.1-22982-e213a147257-releases/2026/4", True),
        (">=550", "580.65.06", True),
        ("<14", "13.0", True),
        (">=1", "unknown", False),
        (">=1.23", "1.24.0rc1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(wanted: str, found: str, fits: bool) -> None:
    assert contains(wanted, found) is fits


class TestTheBestVariant:
    def chosen(self, *targets: Target, machine: Machine = GPU) -> Target:
        offered = [(manifest(target), target) for target in targets]
        return best("resnet18", offered, machine, "tensorrt")[1]

    def test_the_closest_wins(self) -> None:
        plain, card, exact = on_gpu(), on_gpu(capability="9.0"), on_gpu(("tensorrt", "==10.6.*"), capability="9.0")
        assert self.chosen(Target(), plain, card, exact) == exact
        assert self.chosen(Target(), plain, card) == card
        assert self.chosen(plain, Target()) == plain
        assert self.chosen(Target(), card, machine=replace(GPU, cards=(T4,))) == Target()

    def test_none_says_why_each_is_not(self) -> None:
        with pytest.raises(EngineRefused) as refused:
            self.chosen(Target(backend="openvino"), on_gpu(capability="8.9"))
        assert "it is for openvino" in str(refused.value)
        assert "compute capability 8.9" in str(refused.value)

    def test_none_published_says_how(self) -> None:
        with pytest.raises(EngineRefused, match="assay engine publish") as refused:
            self.chosen()
        assert refused.value.code is RefusalCode.NOT_PUBLISHED


def test_what_this_build_supports_is_what_it_is_installed_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    wanted = dict(match.groups() for line in listed if (match := re.match(r"([\w-]+)(?:\[.*\])?(>=[\d.]+)", line)))
    assert SUPPORTED.items() <= wanted.items()


def test_a_backend_that_is_missing_or_old_is_told() -> None:
    assert unsupported(GPU, "tensorrt") == []
    (missing,) = unsupported(GPU, "openvino")
    assert "openvino >=2026.1 is needed, and there is none" in missing.message
    (old,) = unsupported(replace(GPU, versions={**GPU.versions, "tensorrt": "8.6.1"}), "tensorrt")
    assert "8.6.1 is here" in old.message


class TestRelease:
    def test_it_comes_back_as_it_was_written(self) -> None:
        target = Target(backend="tensorrt", capability="9.0", requires=(("cuda", ">=12"), ("tensorrt", "==10.6.*")))
        whole = Release(
            version=3,
            issued_at=ISSUED,
            expires_at=datetime(2027, 1, 1, 12, 30, 1, tzinfo=UTC),
            target=target,
            made_with=made_with(GPU),
        )
        assert release_from(release_fields(whole)) == whole
        assert ("gpu", "NVIDIA H200 (9.0)") in whole.made_with
        assert str(target) == "tensorrt 9.0 cuda>=12 tensorrt==10.6.*"

    @pytest.mark.parametrize(
        "given",
        [
            {"backend": "cuda"},
            {"backend": "tensorrt", "capability": "9"},
            {"capability": "9.0"},
            {"requires": (("numpy", ">=2"),)},
            {"requires": (("cuda", "newest"),)},
        ],
    )
    def test_a_target_that_cannot_be_is_refused(self, given: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            Target(**given)  # type: ignore[arg-type]

    def test_it_does_not_end_before_it_begins(self) -> None:
        with pytest.raises(ValueError, match="expires"):
            Release(version=1, issued_at=ISSUED, expires_at=ISSUED)


class TestThisMachine:
    LISTING = "580.65.06, NVIDIA H200, 9.0, 143771\n580.65.06, Tesla T4, 7.5, 15360\n"

    @pytest.mark.parametrize(
        ("visible", "seen"),
        [
            (None, "9.0 7.5"),
            ("1", "7.5"),
            ("1,0", "7.5 9.0"),
            ("", ""),
            ("-1", ""),
            ("0,7,1", "9.0"),
            ("GPU-ab", "9.0 7.5"),
        ],
    )
    def test_gpus_are_those_that_cuda_would_see(self, visible: str | None, seen: str) -> None:
        driver, cards = parsed_cards(self.LISTING, visible)
        assert driver == "580.65.06"
        assert " ".join(card.capability for card in cards) == seen

    def test_what_is_no_listing_is_no_gpu(self) -> None:
        assert parsed_cards("No devices were found\n", None) == (None, ())
        _, (card,) = parsed_cards("580.1, NVIDIA GB10, 12.1, [N/A]\n", None)
        assert card.memory_bytes == 0

    def test_the_processor_is_read_from_the_kernel(self, tmp_path: Path) -> None:
        told = tmp_path / "cpuinfo"
        told.write_text(
            "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nprocessor\t: 1\n"
        )
        found = processor(told)
        assert (found.model, found.sets) == ("A Processor", ("avx2", "avx512_vnni", "amx_int8"))
        assert found.cores >= 1
        assert processor(tmp_path / "absent").model == "unknown"

    def test_this_one_has_the_libraries_that_the_tests_run_with(self) -> None:
        found = this_machine()
        assert {"onnx", "openvino", "onnxruntime"} <= found.versions.keys()
        assert unsupported(found, "openvino") == []
        assert found.opset >= 17
