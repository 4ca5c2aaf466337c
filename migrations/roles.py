"""Roles, and what must stand before the first revision: they belong to the whole cluster, so they are made
idempotently, outside the revisions, and never dropped by a downgrade. Passwords are set here and stand nowhere else.

assay_owner owns every object and cannot log in; assay_migrator becomes it to migrate. The others are what services and
people log in as; an analyst is a login role of any name, a member of assay_analyst, with rows in analyst_grants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Connection, text

from migrations.schema import SCHEMA, VIEWS
from migrations.session import transaction

OWNER = "assay_owner"
ANALYST = "assay_analyst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """`statement_timeout` as PostgreSQL writes it; None leaves the server's."""

    name: str
    login: bool = True
    statement_timeout: str | None = None
    member_of: str | None = None


ROLES = (
    Role(name=OWNER, login=False),
    Role(name="assay_migrator", member_of=OWNER),
    Role(name="assay_worker", statement_timeout="30s"),
    Role(name="assay_gateway", statement_timeout="10s"),
    Role(name="assay_curator", statement_timeout="60s"),
    Role(name="assay_eraser", statement_timeout="10min"),
    Role(name="assay_sealer", statement_timeout="60s"),
    Role(name="assay_watcher", statement_timeout="60s"),
    Role(name="assay_auditor", statement_timeout="10min"),
    Role(name=ANALYST, login=False),
)
ANALYST_TIMEOUT = "60s"

# Two databases of one cluster may be migrated at once, and an advisory lock is a database's own: whoever comes second
# finds the role made, and leaves it alone.
CREATE_ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN
        CREATE ROLE {name} {login};
        {settings}
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""


def prepare(connection: Connection) -> None:
    """Make the roles, the schemas and the extension where they are missing. Needs a superuser or, for databases that a
    database administrator prepared, nothing."""
    for role in ROLES:
        _run(connection, _create(role))
    connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    for schema in (SCHEMA, VIEWS):
        # IF NOT EXISTS would ask for the right to create schemas even where the schema stands.
        if not connection.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname = :name"), {"name": schema}):
            connection.execute(text(f"CREATE SCHEMA {schema} AUTHORIZATION {OWNER}"))


def become_owner(connection: Connection) -> None:
    """Every object that follows in this session belongs to the owner."""
    connection.execute(text(f"SET ROLE {OWNER}"))


def set_role_password(url: str, role: str, password: str) -> None:
    """Let `role` log in with `password`. Needs a superuser or the role's administrator."""
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
    with transaction(url) as connection:
        _run(connection, statement)


def create_analyst(url: str, role: str, *, tenants: Sequence[str], password: str | None = None) -> None:
    """Make the login role `role` an analyst of exactly `tenants` (`*` for all), or change which ones it reads."""
    with transaction(url) as connection:
        analyst = Role(name=role, statement_timeout=ANALYST_TIMEOUT, member_of=ANALYST)
        _run(connection, _create(analyst))
        connection.execute(text("DELETE FROM assay.analyst_grants WHERE role = :role"), {"role": role})
        rows = [{"role": role, "tenant": tenant} for tenant in tenants]
        if rows:
            connection.execute(text("INSERT INTO assay.analyst_grants (role, tenant) VALUES (:role, :tenant)"), rows)
    if password is not None:
        set_role_password(url, role, password)


def _create(role: Role) -> sql.Composed:
    settings = [sql.SQL("ALTER ROLE {} SET timezone = 'UTC';").format(sql.Identifier(role.name))]
    if role.statement_timeout:
        timeout = sql.SQL("ALTER ROLE {} SET statement_timeout = {};")
        settings.append(timeout.format(sql.Identifier(role.name), sql.Literal(role.statement_timeout)))
    if role.member_of:
        grant = sql.SQL("GRANT {} TO {};")
        settings.append(grant.format(sql.Identifier(role.member_of), sql.Identifier(role.name)))
    return sql.SQL(CREATE_ROLE).format(
        literal=sql.Literal(role.name),
        name=sql.Identifier(role.name),
        login=sql.SQL("LOGIN" if role.login else "NOLOGIN"),
        settings=sql.SQL(" ").join(settings),
    )


def _run(connection: Connection, statement: sql.Composed) -> None:
    raw = connection.connection.driver_connection
    assert raw is not None  # noqa: S101
    raw.execute(statement)
