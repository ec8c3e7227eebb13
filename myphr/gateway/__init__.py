"""Long-lived streams: `screen` (browser to machine) and `files` (guest to sealed items), with pure protocol cores."""
