"""What `assay doctor` looks at over the network: Kafka and its topics, PostgreSQL and its tables and roles, Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import KafkaException, libversion
from confluent_kafka.admin import AdminClient
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from engines.catalogue import VerifiedEngine, chosen_backend
from migrations.apply import newest
from migrations.partitions import month_start
from worker.adapters.kafka import plan_topics
from worker.adapters.redis_version import redis_version
from worker.app import open_database
from worker.cli.findings import Finding, fail, ok, warn
from worker.core.policy_json import VERSION
from worker.errors import AssayError, ConfigurationError, ServiceUnavailable
from worker.settings import Settings

ANSWER_S: Final = 5.0
QUIET: Final = {"log_level": 2}  # each attempt to connect would be a line of its own beside the table
NEEDED: Final = (("INSERT", "jobs"), ("INSERT", "verdicts"), ("INSERT", "attempts"), ("SELECT", "engines"))
REVISION: Final = text("SELECT version_num FROM assay.alembic_version")
ROLE: Final = text("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
MAY: Final = text("SELECT has_table_privilege('assay.' || :table, :right)")
THERE: Final = text("SELECT to_regclass('assay.' || :table) IS NOT NULL")
CALIBRATED: Final = text(
    "SELECT count(*) FROM assay.calibrations WHERE active AND backend = :backend AND :digest = ANY (engine_digests)"
    " AND document @> jsonb_build_object('version', CAST(:version AS int))"
)


def kafka_findings(settings: Settings) -> Iterator[Finding]:
    """Whether brokers answer, and whether the topics are as documented."""
    kafka = settings.kafka
    config = kafka.client_config() | QUIET
    try:
        cluster = AdminClient(config).list_topics(timeout=ANSWER_S)
        changes = plan_topics(config, kafka.topics, partitions=kafka.partitions)
    except (KafkaException, AssayError) as error:
        words = error.args[0].str() if isinstance(error, KafkaException) else error
        told = f"{kafka.bootstrap} over {kafka.security_protocol}: {_short(words)}"
        yield fail("kafka", "brokers", told, "start Kafka, or correct kafka.bootstrap and kafka.security_protocol")
        return
    told = f"{len(cluster.brokers)} at {kafka.bootstrap}, librdkafka {libversion()[0]}"
    yield ok("kafka", "brokers", told)
    missing = [change.topic for change in changes if change.action == "create"]
    if missing:
        yield fail("kafka", "topics", f"missing: {', '.join(missing)}", "assay topics apply")
    elif changes:
        told = "; ".join(str(change) for change in changes)
        yield warn("kafka", "topics", f"not as documented: {told}", "assay topics apply")
    else:
        yield ok("kafka", "topics", f"as documented, under {kafka.topics.prefix}")


def database_findings(settings: Settings, engines: Sequence[VerifiedEngine]) -> Iterator[Finding]:
    """Whether PostgreSQL answers, is at this build's revision, and lets this role do a worker's work."""
    database = open_database(settings, application_name="assay-doctor")
    try:
        with database.connect() as connection:
            yield ok("postgres", "server", f"{_version(connection)} at {_place(settings)}")
            yield (revision := _revision(connection))
            if revision.state == "ok":
                yield from _prepared(connection, settings, engines)
    except ConfigurationError as error:  # the type vector is missing: no revision was ever there
        yield fail("postgres", "revision", _short(error), "assay migrate up")
    except (SQLAlchemyError, ServiceUnavailable) as error:
        told = f"{_place(settings)}: {_short(getattr(error, 'orig', None) or error)}"
        yield fail("postgres", "server", told, "start PostgreSQL, or correct database.url, its role and its password")
    finally:
        database.dispose()


def redis_finding(settings: Settings) -> Finding:
    """Redis may be away: verdicts are the same without."""
    url = settings.redis.url
    if url is None:
        return ok("redis", "server", "not set: no cache, no job status")
    try:
        return ok("redis", "server", f"Redis {redis_version(url.get_secret_value(), timeout_s=ANSWER_S)}")
    except ServiceUnavailable as error:
        return warn("redis", "server", _short(error), "start Redis, or correct redis.url; verdicts do not need it")


def _prepared(connection: Connection, settings: Settings, engines: Sequence[VerifiedEngine]) -> Iterator[Finding]:
    yield _role(connection)
    yield _partitions(connection)
    backend = chosen_backend(settings.engines.backend)
    for engine in engines:
        yield _calibration(connection, engine, backend)


def _revision(connection: Connection) -> Finding:
    wanted = newest()
    there = connection.scalar(THERE, {"table": "alembic_version"})
    found = connection.scalar(REVISION) if there else None
    if found == wanted:
        return ok("postgres", "revision", str(found))
    told = f"the database is at revision {found or 'none'}, this build wants {wanted}"
    return fail("postgres", "revision", told, "assay migrate up, as a role that may migrate")


def _role(connection: Connection) -> Finding:
    name, superuser = connection.execute(ROLE).one()
    lacking = [f"{right} {table}" for right, table in NEEDED if not _may(connection, right, table)]
    fix = "connect as assay_worker (database.url)"
    if lacking:
        return fail("postgres", "role", f"{name} may not {', '.join(lacking)}", fix)
    if superuser or _may(connection, "UPDATE", "verdicts"):
        return warn("postgres", "role", f"{name} may change verdicts", fix)
    return ok("postgres", "role", str(name))


def _may(connection: Connection, right: str, table: str) -> bool:
    return bool(connection.scalar(MAY, {"right": right, "table": table}))


def _partitions(connection: Connection) -> Finding:
    months = [month_start(datetime.now(UTC), ahead) for ahead in (0, 1)]
    names = [f"verdicts_p{month:%Y%m}" for month in months]
    missing = [name for name in names if not connection.scalar(THERE, {"table": name})]
    if missing:
        return warn("postgres", "partitions", f"missing: {', '.join(missing)}", "assay migrate partitions")
    return ok("postgres", "partitions", f"{names[0]} and the next")


def _calibration(connection: Connection, engine: VerifiedEngine, backend: str) -> Finding:
    manifest = engine.manifest
    values = {"backend": backend, "digest": manifest.onnx_sha256, "version": VERSION}
    what = f"calibration of {manifest.name}"
    if connection.scalar(CALIBRATED, values):
        return ok("postgres", what, f"there is one on {backend}")
    fix = "assay calibrate ... --publish: without it every verdict is inconclusive"
    return warn("postgres", what, f"none for these digests on {backend}", fix)


def _version(connection: Connection) -> str:
    return f"PostgreSQL {connection.scalar(text('SHOW server_version'))}"


def _place(settings: Settings) -> str:
    """Never the whole URL, which holds a password."""
    url = make_url(settings.database.url.get_secret_value())
    return f"{url.host or 'a socket'}:{url.port or 5432}/{url.database}"


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300]
