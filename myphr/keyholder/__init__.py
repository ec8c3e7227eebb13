"""The keyholder: a process of its own with the CA, the authorities' master keys and the vault. Imported by nothing."""
