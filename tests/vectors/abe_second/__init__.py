"""The second implementation of attribute-based sharing: slow, over py_arkworks_bls12381 and plain Python integers,
written from docs/formats/abe.md, docs/formats/policy.md and the two papers, without sight of myphr/crypto/abe.

`check.check_vector(document)` is the way in. Tests only.
"""
