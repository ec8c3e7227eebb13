"""Messages and cards as text: HL7 version 2 (chapter 2), e-mail (RFC 5322), Blue Button, calendars, address cards."""

import re

from myphr.ingest.formats import Identified, Rule

# A segment's name, the field separator and four or five encoding characters (2.5.4). Some writers double the
# backslash, others lose it.
_HL7 = re.compile(rb"(?:\xef\xbb\xbf)?[\s\x0b]*(?:FHS|BHS|MSH)([|!#$%*+,./:;=@^~-])(?! {2})[^\w\r\n\t]{2,6}\1")
_FIELD = re.compile(rb"[!-9;-~]{1,76}[ \t]{0,3}:|[ \t]+\S")  # 2.2 and, for the older blanks before the colon, 4.5
_MAIL_FIELDS = (
    b"received:", b"return-path:", b"delivered-to:", b"from:", b"to:", b"date:", b"subject:", b"message-id:",
    b"mime-version:", b"content-type:", b"content-transfer-enc", b"reply-to:", b"sender:", b"cc:", b"in-reply-to:",
    b"references:", b"x-mailer:", b"user-agent:",
)  # fmt: skip
_ONLY_MAIL = {b"received:", b"return-path:", b"delivered-to:", b"from:", b"to:", b"subject:", b"message-id:"}
_BLUE_BUTTON = re.compile(
    rb"^[-=* \t]{0,80}(?:MY HEALTHEVET PERSONAL (?:HEALTH )?|(?:MY)?MEDICARE\.GOV PERSONAL HEALTH )INFORMATION|"
    rb"^VA Blue Button\W{0,4}report\W*$|TRICARE ONLINE.{0,80}PERSONAL HEALTH|"
    rb"Produced by the (?:[A-Z]{2,8} )?Blue Button|"
    rb"^[-=* \t]{0,60}(?-i:(?:VA |CMS |MEDICARE )?BLUE BUTTON(?: (?:REPORT|DOWNLOAD|DATA))?)[-=* \t]{0,60}\r?$",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


def _hl7(head: bytes) -> Identified | None:
    return Identified("hl7v2", "application/hl7-v2", "hl7-segment") if _HL7.match(head[:512]) else None


def _mail(head: bytes) -> Identified | None:
    """Header fields up to an empty line, at least three of those that mails have."""
    top = head[:32_768].removeprefix(b"\xef\xbb\xbf").removeprefix(b"From ")
    top = top.lstrip(b"\r\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n", 1)[0]
    lines = top.split(b"\n")[:200]
    if len(lines) < 3 or not all(_FIELD.match(line) for line in lines[1:-1] or lines):
        return None
    known = {field for field in _MAIL_FIELDS for line in lines if line[:20].lower().startswith(field)}
    fits = len(known) >= 3 and known & _ONLY_MAIL  # answers of web servers have some of the others
    return Identified("eml", "message/rfc822", "mail-fields", puid="fmt/950") if fits else None


def _blue_button(head: bytes) -> Identified | None:
    if head[:1] in (b"<", b"{", b"%") or head[:2] == b"PK":
        return None
    return Identified("text-bluebutton", "text/plain", "blue-button") if _BLUE_BUTTON.search(head[:2048]) else None


def _card(head: bytes) -> Identified | None:
    start = head.removeprefix(b"\xef\xbb\xbf")[:32].upper()
    if start.startswith(b"BEGIN:VCALENDAR"):
        return Identified("ics", "text/calendar", "calendar", puid="fmt/387")
    return (
        Identified("vcard", "text/vcard", "address-card", puid="fmt/395") if start.startswith(b"BEGIN:VCARD") else None
    )


RULES = (Rule("hl7v2", _hl7), Rule("card", _card), Rule("blue-button", _blue_button), Rule("mail", _mail))
