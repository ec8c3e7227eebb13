"""Images from a provider's PACS (DICOM C-FIND, C-GET), at the patient's own request and under the number that somebody
vouched for: docs/decisions/0217-fetching-from-pacs.md."""
