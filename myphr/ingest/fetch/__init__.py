"""Fetching from outside on a patient's word, step by step: what hospitals (`ingest.fhir`) and PACS (`ingest.pacs`)
share."""
