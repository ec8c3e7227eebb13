"""How files get in: resumable uploads, identification, DICOM headers, archives. Seals at once."""
