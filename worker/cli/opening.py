"""Opens what the commands read, from the settings, and closes it after them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from worker import app
from worker.errors import AssayError
from worker.settings import Settings

NOT_ALLOWED = "42501"  # SQLSTATE insufficient_privilege


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Engine]:
    """A pool for one command. What the database refuses becomes one line. Raises AssayError."""
    database = app.open_database(settings, application_name="assay-cli")
    try:
        yield database
    except DBAPIError as error:
        raise AssayError(f"the database at ASSAY_DATABASE__URL refuses: {_explained(error)}") from error
    finally:
        database.dispose()


def _explained(error: DBAPIError) -> str:
    """The server's own words; the statement and its values stay out."""
    words = str(error.orig).strip().partition("\n")[0]
    if getattr(error.orig, "sqlstate", None) == NOT_ALLOWED:
        return f"{words}; connect as a role that may, such as assay_curator"
    return words
