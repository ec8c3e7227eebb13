"""Accounts, sign-in, the owner's key ring and its recovery. Knows nothing of records or machines."""
