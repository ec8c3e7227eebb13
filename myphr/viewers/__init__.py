"""Viewers: the catalogue, the suggestion for a set of items, and the templates (guest images) they live in."""
