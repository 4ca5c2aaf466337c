"""Settings: a wrong one is refused by its name and with the fix, and no secret is ever said."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import ConfigurationError
from worker.settings import Settings, load_settings

CANARY = "c4n4ry-of-the-settings"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without anything of ours in it (tests/conftest.py cleared it), to be set by a test."""
    return monkeypatch


def refusal() -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return str(refused.value)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()
    assert settings.mode == "development"
    assert settings.kafka.topics.jobs == "assay.jobs"


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("ASSAY_KAFKA__ENCODING", "xml", "'avro' or 'json'"),
        ("ASSAY_KAFKA__PARTITIONS", "0", "greater than or equal to 1"),
        ("ASSAY_KAFKA__TOPICS__PREFIX", "assay/", "pattern"),
        ("ASSAY_KAFKA__BOOTSTRAP", " ", "pattern"),
        ("ASSAY_KAFKA__SSL_CA_LOCATION", "/nowhere.pem", "does not point to a file"),
        ("ASSAY_DRAIN_DEADLINE_S", "inf", "finite"),
        ("ASSAY_DRAIN_DEADLINE_S", "soon", "valid number"),
        ("ASSAY_DATABASE__URL", "postgres://me@here/assay", "postgresql+psycopg://ROLE:PASSWORD@HOST:PORT/DATABASE"),
        ("ASSAY_DATABASE__URL", "postgresql+psycopg://me@here:port/assay", "HOST:PORT"),
        ("ASSAY_REDIS__URL", "localhost:6379", "redis://HOST:PORT/NUMBER"),
        ("ASSAY_IMAGES__HTTPS_HOSTS", "a.example", """'["a", "b"]'"""),
        ("ASSAY_ENGINES__ENCODERS", "bag/logo=vit_tiny16", """'{"a": "b"}'"""),
        ("ASSAY_OBSERVE__PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_with_the_fix(
    given: pytest.MonkeyPatch, variable: str, value: str, fix: str
) -> None:
    given.setenv(variable, value)
    told = refusal()
    assert told.startswith(f"setting {variable}: ")
    assert fix in told


def test_every_wrong_setting_is_named_at_once(given: pytest.MonkeyPatch) -> None:
    given.setenv("ASSAY_BATCH__DEPTH", "99")
    given.setenv("ASSAY_INTAKE__QUEUE_JOBS", "-1")
    told = refusal()
    assert "ASSAY_BATCH__DEPTH" in told
    assert "ASSAY_INTAKE__QUEUE_JOBS" in told


@pytest.mark.parametrize("variable", ["ASSAY_KAFAK__BOOTSTRAP", "ASSAY_KAFKA__BOOTSTRP", "assay_kafak__bootstrap"])
def test_a_variable_that_is_no_setting_is_refused(given: pytest.MonkeyPatch, variable: str) -> None:
    given.setenv(variable, "here:9092")
    told = refusal()
    assert variable.upper() in told.upper()
    assert "is no setting" in told


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"ASSAY_MODE": "production"}, "set kafka.security_protocol to SSL or SASL_SSL"),
        ({"ASSAY_REDIS__CACHE": "true"}, "needs redis.url and redis.mac_key"),
        ({"ASSAY_EVIDENCE__KEEP": "all"}, "set evidence.root or evidence.s3_bucket"),
        ({"ASSAY_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "set kafka.sasl_mechanism, kafka.sasl_username and"),
        ({"ASSAY_KAFKA__GROUP": "my group"}, "names without spaces"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    given: pytest.MonkeyPatch, settings: dict[str, str], fix: str
) -> None:
    for variable, value in settings.items():
        given.setenv(variable, value)
    assert fix in refusal()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_production_refuses_plaintext_kafka(given: pytest.MonkeyPatch, protocol: str) -> None:
    log_in(given)
    given.setenv("ASSAY_MODE", "production")
    given.setenv("ASSAY_KAFKA__SECURITY_PROTOCOL", protocol)
    assert "production refuses plaintext Kafka" in refusal()


def test_production_takes_encrypted_kafka(given: pytest.MonkeyPatch) -> None:
    log_in(given)
    given.setenv("ASSAY_MODE", "production")
    given.setenv("ASSAY_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    given.setenv("ASSAY_DATABASE__URL", f"postgresql+psycopg://assay_worker:{CANARY}@db/assay?sslmode=require")
    config = load_settings().kafka.client_config()
    assert config["security.protocol"] == "SASL_SSL"
    assert config["sasl.password"] == CANARY


def log_in(given: pytest.MonkeyPatch) -> None:
    given.setenv("ASSAY_KAFKA__SASL_MECHANISM", "SCRAM-SHA-512")
    given.setenv("ASSAY_KAFKA__SASL_USERNAME", "assay")
    given.setenv("ASSAY_KAFKA__SASL_PASSWORD", CANARY)


class TestSecrets:
    def test_they_are_not_printed(self, given: pytest.MonkeyPatch) -> None:
        log_in(given)
        given.setenv("ASSAY_DATABASE__URL", f"postgresql+psycopg://assay_worker:{CANARY}@here/assay")
        given.setenv("ASSAY_REDIS__URL", f"redis://:{CANARY}@here:6379/0")
        given.setenv("ASSAY_REDIS__MAC_KEY", CANARY)
        settings = load_settings()
        assert CANARY not in f"{settings!r} {settings} {settings.model_dump_json()}"

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("ASSAY_DATABASE__URL", f"mysql://assay:{CANARY}@here/assay"),
            ("ASSAY_DATABASE__URL", f"postgresql+psycopg://assay@here:{CANARY}/assay"),
            ("ASSAY_REDIS__URL", f"http://:{CANARY}@here"),
            ("ASSAY_DATABASE", f'{{"url": "{CANARY}'),
            ("ASSAY_DATABASE", f'{{"uri": "{CANARY}"}}'),
            ("ASSAY_KAFKA__SASL_PASSWORDS", CANARY),
        ],
    )
    def test_a_refusal_does_not_say_them(self, given: pytest.MonkeyPatch, variable: str, value: str) -> None:
        given.setenv(variable, value)
        assert CANARY not in refusal()

    @pytest.mark.parametrize("name", ["ASSAY_DATABASE__URL", "assay_database__url"])
    def test_they_are_read_from_a_folder(self, given: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text(f"postgresql+psycopg://assay_worker:{CANARY}@here/assay\n")
        given.setenv("ASSAY_SECRETS_DIR", str(tmp_path))
        assert CANARY in load_settings().database.url.get_secret_value()

    def test_a_misspelt_file_is_refused(self, given: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "ASSAY_DATABSE__URL").write_text(CANARY)
        given.setenv("ASSAY_SECRETS_DIR", str(tmp_path))
        told = refusal()
        assert "ASSAY_DATABSE__URL is no setting" in told
        assert CANARY not in told

    def test_a_folder_that_is_not_there_is_refused(self, given: pytest.MonkeyPatch, tmp_path: Path) -> None:
        given.setenv("ASSAY_SECRETS_DIR", str(tmp_path / "missing"))
        assert "which is no folder; correct it or unset it" in refusal()


class TestFile:
    def load(self, given: pytest.MonkeyPatch, path: Path, text: str) -> Settings:
        path.write_text(text, encoding="utf-8")
        given.setenv("ASSAY_SETTINGS_FILE", str(path))
        return load_settings()

    def test_it_is_read(self, given: pytest.MonkeyPatch, tmp_path: Path) -> None:
        text = 'drain_deadline_s = 9\n[kafka]\nbootstrap = "there:9092"\n[images]\nhttps_hosts = ["a.example"]\n'
        settings = self.load(given, tmp_path / "assay.toml", text)
        assert settings.drain_deadline_s == 9
        assert settings.kafka.bootstrap == "there:9092"
        assert settings.images.https_hosts == ("a.example",)

    def test_secrets_win_over_it_and_the_environment_over_both(self, given: pytest.MonkeyPatch, tmp_path: Path) -> None:
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        for name in ("ASSAY_KAFKA__GROUP", "ASSAY_KAFKA__SASL_USERNAME"):
            (secrets / name).write_text("from-secrets")
        given.setenv("ASSAY_SECRETS_DIR", str(secrets))
        given.setenv("ASSAY_KAFKA__GROUP", "from-environment")
        text = '[kafka]\ngroup = "from-file"\nsasl_username = "from-file"\ninstance = "from-file"\n'
        kafka = self.load(given, tmp_path / "assay.toml", text).kafka
        assert (kafka.group, kafka.sasl_username, kafka.instance) == ("from-environment", "from-secrets", "from-file")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[kafka\n", "is no TOML: Expected ']'"),
            ("[kafak]\nbootstrap = 'x'\n", "setting ASSAY_KAFAK: is no setting"),
            ("[kafka]\nbootstrp = 'x'\n", "setting ASSAY_KAFKA__BOOTSTRP: is no setting"),
            ("[batch]\ndepth = 'two'\n", "setting ASSAY_BATCH__DEPTH: Input should be a valid integer"),
        ],
    )
    def test_a_fault_in_it_is_named(self, given: pytest.MonkeyPatch, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(ConfigurationError) as refused:
            self.load(given, tmp_path / "assay.toml", text)
        assert told in str(refused.value)

    def test_a_file_that_is_not_there_is_refused(self, given: pytest.MonkeyPatch, tmp_path: Path) -> None:
        given.setenv("ASSAY_SETTINGS_FILE", str(tmp_path / "missing.toml"))
        assert "which is no file; correct it or unset it" in refusal()


def test_lists_and_tables_are_json(given: pytest.MonkeyPatch) -> None:
    given.setenv("ASSAY_IMAGES__HTTPS_HOSTS", '["a.example", "b.example"]')
    given.setenv("ASSAY_ENGINES__ENCODERS", '{"bag/logo": "vit_tiny16"}')
    settings = load_settings()
    assert settings.images.https_hosts == ("a.example", "b.example")
    assert settings.engines.encoder_for("bag", "logo") == "vit_tiny16"
    assert settings.engines.encoder_for("bag", "lining") == "resnet18"
    assert settings.engines.names == ("resnet18", "vit_tiny16")


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.group = "another"  # type: ignore[misc]
