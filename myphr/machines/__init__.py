"""Machines and VM sessions: clone, start, claim, destroy; the warm pool; the only import of proxmoxer."""
