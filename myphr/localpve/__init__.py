"""The embedded default hypervisor: Proxmox VE's HTTP API over plain QEMU. Imports nothing else of myphr."""
