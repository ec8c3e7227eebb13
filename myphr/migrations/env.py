"""Alembic's entry: runs migrations on the database that `myphr.migrations.configuration` names."""

from alembic import context
from sqlmodel import SQLModel

from myphr.database import Database, import_models

import_models()
database = Database(context.config.get_main_option("sqlalchemy.url") or "")
with database.engine.connect() as connection:
    # Batch mode: SQLite cannot alter columns in place.
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
database.dispose()
