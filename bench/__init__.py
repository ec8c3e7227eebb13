"""Programs that print ratios against a named peer, measured in the same run. None of them asserts a time."""
