"""The history of the database's schema, one revision a file; `kumiai.storage.schema` runs it."""
