"""Pure cryptography: bytes and values in, values out. No clock, socket, file, database or Flask here."""
