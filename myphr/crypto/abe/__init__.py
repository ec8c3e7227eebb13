"""Attribute-based sharing: who may open is written into the key itself. Unaudited: see docs/formats/abe.md.

`policy` and `dates` say who; `multi_authority` (RW15) shares with people by what several authorities say of them;
`key_policy` (FABEO-KP) gives a key over the labels of one patient's records; `curve` does the mathematics. Bytes and
values in, values out: no clock, socket, file or database.
"""
