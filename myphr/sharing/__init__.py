"""Shares of a live screen: link, passcode, withdrawal, mails, and the one-use tickets of the screen gateway."""
