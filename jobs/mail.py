"""Jobs about mails. Safe to run twice: see `myphr.sharing.mails`."""

from jobs.portal import portal
from myphr.sharing import mails


def send(mail_id: str) -> None:
    """Send one mail, or leave it waiting for a later try."""
    mails.send(portal(), mail_id)
