"""The append-only, hash-chained audit trail. Everything above it records events here; it knows only ids."""
