"""The folder of trusted keys: rotation, revocation, expiry, HMAC keys, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.errors import EngineRefused, RefusalCode
from engines.keyring import load_signer, make_hmac, make_pair, read_keys, refuse_retiring
from engines.signing import sign, signer_id, verify

NOW = datetime(2026, 11, 28, tzinfo=UTC)
PAYLOAD = b"what is signed"


def refusal(act: Callable[[], object]) -> RefusalCode:
    with pytest.raises(EngineRefused) as refused:
        act()
    assert refused.value.fix
    return refused.value.code


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, str]:
    """A folder of keys with one pair; the private half lies elsewhere."""
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder, make_pair(tmp_path / "one.pem", folder / "one.pub")


def write(folder: Path, text: str) -> None:
    (folder / "keys.toml").write_text(text)


def checked(folder: Path, private: Path, now: datetime = NOW) -> None:
    signer = load_signer(private)
    verify(read_keys(folder), signer_id(signer), sign(signer, PAYLOAD), PAYLOAD, now)


def test_a_new_pair_signs_what_its_public_half_verifies(pair: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = pair
    checked(folder, tmp_path / "one.pem")
    assert list(read_keys(folder)) == [name]
    assert (tmp_path / "one.pem").stat().st_mode & 0o777 == 0o600
    assert refusal(lambda: make_pair(tmp_path / "one.pem", folder / "two.pub")) is RefusalCode.KEYS_INVALID


def test_rotation_two_keys_verify_and_the_old_one_signs_no_more(pair: tuple[Path, str], tmp_path: Path) -> None:
    folder, old = pair
    new = make_pair(tmp_path / "two.pem", folder / "two.pub")
    for private in ("one.pem", "two.pem"):
        checked(folder, tmp_path / private)
    write(folder, f'[keys.{old}]\nstate = "retiring"\n')
    checked(folder, tmp_path / "one.pem")
    keys = read_keys(folder)
    refuse_retiring(keys, new)
    assert refusal(lambda: refuse_retiring(keys, old)) is RefusalCode.KEY_RETIRING


def test_a_revoked_key_verifies_nothing_and_says_why(pair: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = pair
    write(folder, f'[keys.{name}]\nstate = "revoked"\nwhy = "a laptop was lost"\n')
    with pytest.raises(EngineRefused, match="a laptop was lost") as refused:
        checked(folder, tmp_path / "one.pem")
    assert refused.value.code is RefusalCode.KEY_REVOKED


def test_a_key_ends_to_the_second(pair: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = pair
    write(folder, f"[keys.{name}]\nexpires_at = 2026-11-28T02:00:00+02:00\n")
    checked(folder, tmp_path / "one.pem", NOW - timedelta(seconds=1))
    assert refusal(lambda: checked(folder, tmp_path / "one.pem")) is RefusalCode.KEY_EXPIRED


def test_at_most_two_keys_are_active(pair: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = pair
    for number in ("two", "three"):
        make_pair(tmp_path / f"{number}.pem", folder / f"{number}.pub")
    write(folder, "")
    assert refusal(lambda: read_keys(folder)) is RefusalCode.KEYS_INVALID
    write(folder, f'[keys.{name}]\nstate = "retiring"\n')
    assert len(read_keys(folder)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "[keys.0000000000000000]\n",
        '[keys.NAME]\nstate = "trusted"\n',
        "[keys.NAME]\nexpires_at = 2027-01-01T00:00:00\n",
        '[keys.NAME]\nexpires_at = "2027-01-01"\n',
        "[keys.NAME]\nwhy = 7\n",
        "[keys.NAME]\nrevoked = true\n",
        "[revoked]\n",
        "keys = 7\n",
        "[keys]\nNAME = 7\n",
        "[keys.NAME\n",
    ],
)
def test_a_file_of_changes_that_is_not_understood_trusts_nobody(pair: tuple[Path, str], text: str) -> None:
    folder, name = pair
    write(folder, text.replace("NAME", name))
    assert refusal(lambda: read_keys(folder)) is RefusalCode.KEYS_INVALID


class TestHmac:
    def test_one_secret_signs_and_verifies(self, tmp_path: Path) -> None:
        name = make_hmac(tmp_path / "site.hmac")
        assert name.startswith("hmac-")
        checked(tmp_path, tmp_path / "site.hmac")
        signer = load_signer(tmp_path / "site.hmac")
        signature = sign(signer, PAYLOAD)
        assert refusal(lambda: verify(read_keys(tmp_path), name, signature, b"other")) is RefusalCode.SIGNATURE_INVALID
        assert "secret" not in repr(signer)
        assert refusal(lambda: make_hmac(tmp_path / "site.hmac")) is RefusalCode.KEYS_INVALID
        assert refusal(lambda: make_hmac(tmp_path / "site.key")) is RefusalCode.KEYS_INVALID

    def test_others_must_not_read_it(self, tmp_path: Path) -> None:
        make_hmac(tmp_path / "site.hmac")
        (tmp_path / "site.hmac").chmod(0o640)
        with pytest.raises(EngineRefused, match="chmod 600"):
            read_keys(tmp_path)

    @pytest.mark.parametrize("raw", [b"", b"ab" * 31, b"AB" * 32, b"ab" * 33, b"\xff" * 64])
    def test_what_is_no_key_is_refused(self, tmp_path: Path, raw: bytes) -> None:
        (tmp_path / "site.hmac").write_bytes(raw)
        (tmp_path / "site.hmac").chmod(0o600)
        assert refusal(lambda: read_keys(tmp_path)) is RefusalCode.KEYS_INVALID


@pytest.mark.parametrize("raw", [b"", b"not a key"])
def test_a_file_that_signs_nothing_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "private.pem").write_bytes(raw)
    assert refusal(lambda: load_signer(tmp_path / "private.pem")) is RefusalCode.KEYS_INVALID
    assert refusal(lambda: load_signer(tmp_path / "absent.pem")) is RefusalCode.KEYS_INVALID


def test_keys_have_ids_of_their_own() -> None:
    assert signer_id(Ed25519PrivateKey.generate()) != signer_id(Ed25519PrivateKey.generate())
