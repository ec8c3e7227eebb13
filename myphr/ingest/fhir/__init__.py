"""Records from a hospital's FHIR server, at the patient's own request: SMART App Launch, standalone, with PKCE."""
