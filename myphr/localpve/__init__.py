"""The embedded default hypervisor: a server that speaks the Proxmox VE HTTP API in front of plain QEMU.

Stands alone: imports nothing else of myphr, knows nothing of patients, records or sessions. The portal reaches it only
over HTTPS, exactly as it would reach a real node. Started by `python -m myphr.localpve`; see
docs/operations/localpve.md.
"""
