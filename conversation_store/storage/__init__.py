"""Where conversations are kept: the schema, the log, and what is derived from it."""
