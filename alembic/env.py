"""Alembic environment of the schema pgq: run by pgq.schema only, which supplies the connection and the transaction."""

from alembic import context

options = {"version_table": "alembic_version", "version_table_schema": "pgq"}

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", literal_binds=True, output_buffer=context.config.output_buffer, **options
    )
else:
    context.configure(connection=context.config.attributes["connection"], **options)

context.run_migrations()
