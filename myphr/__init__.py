"""MyPHRMachines: a personal health record portal that keeps data and software apart.

Imports point down: web | gateway | jobs | cli > sharing > machines > viewers | ingest > records >
people > audit > crypto > errors, settings, database, queue. `localpve` stands alone. `make lint` proves it.
"""

__version__ = "0.1.0"
