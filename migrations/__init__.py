"""The database: its tables, roles and views, and the alembic revisions that make them."""
