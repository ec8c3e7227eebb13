"""Every user-facing error: a stable code, a plain sentence, an HTTP status.

Raise at the point of knowledge; only `web/errors.py` and the gateways turn errors into replies.
Names, file names, tokens and keys never enter a message; ids may. `docs/errors.md` is generated from here.
"""


class PortalError(Exception):
    """Base of all errors a person may see. `code` never changes once released."""

    code = "internal"
    sentence = "Something went wrong on our side. Nothing you saved is lost. Please try again."
    status = 500

    def __init__(self, detail: str = "", **facts: object) -> None:
        """`detail` is for the log, never for the page; `facts` (ids, counts, seconds) fill the sentence."""
        super().__init__(detail or self.code)
        self.detail = detail
        self.facts = facts

    @property
    def message(self) -> str:
        return self.sentence.format(**self.facts) if self.facts else self.sentence


class ConfigurationError(PortalError):
    code = "configuration"
    sentence = "The portal is not set up correctly. Its operator finds the reason in the log."


# -- people ---------------------------------------------------------------------------------------
class NotFound(PortalError):
    """Also the answer for what you may not know exists."""

    code = "not-found"
    sentence = "There is nothing here, or it is not yours to see."
    status = 404


class SignInFailed(PortalError):
    code = "sign-in-failed"
    sentence = "E-mail address and password do not match. Check both and try again."
    status = 403


class SignInRequired(PortalError):
    code = "sign-in-required"
    sentence = "Please sign in first."
    status = 401


class SignInUnavailable(PortalError):
    """The counter of failed tries does not answer: without it nobody may try a password."""

    code = "sign-in-unavailable"
    sentence = "Signing in is not possible at the moment. Your data is safe. Please try again in a minute."
    status = 503


class TooManyAttempts(PortalError):
    code = "too-many-attempts"
    sentence = "Too many tries. Please wait {seconds} seconds and try again."
    status = 429


class EmailTaken(PortalError):
    code = "email-taken"
    sentence = "There is already an account with this e-mail address. Sign in, or use your recovery code."
    status = 409


class PasswordRefused(PortalError):
    code = "password-refused"
    sentence = "Please choose another password: {reason}."
    status = 422


class FormRefused(PortalError):
    code = "form-refused"
    sentence = "Please check the form: {reason}."
    status = 422


class RecoveryFailed(PortalError):
    code = "recovery-failed"
    sentence = "This recovery code does not fit the account. Check each group of letters and try again."
    status = 403


# -- pages ----------------------------------------------------------------------------------------
class FormExpired(PortalError):
    """The CSRF token is missing, of another login session, or the request came from a foreign page."""

    code = "form-expired"
    sentence = "This page was open for too long, or you signed in again since. Reload the page and try once more."
    status = 400


class WrongMethod(PortalError):
    code = "wrong-method"
    sentence = "This address cannot be used in this way. Go back and use the button on the page."
    status = 405


class RequestRefused(PortalError):
    code = "request-refused"
    sentence = "The portal did not understand this request. Go back and try again."
    status = 400


# -- audit ----------------------------------------------------------------------------------------
class AuditBroken(PortalError):
    """The hash chain of the audit trail does not hold; fact `number`: the first event that is missing or changed."""

    code = "audit-broken"
    sentence = "The audit trail was changed at entry {number}. The operator has to look at it."


# -- sealed data ----------------------------------------------------------------------------------
class ContainerError(PortalError):
    """Sealed bytes that are not what was sealed: truncated, reordered, spliced, extended or flipped."""

    code = "item-corrupt"
    sentence = "This file was damaged in storage and cannot be opened. Other files are not affected."


class EnvelopeError(PortalError):
    """A wrapped key that does not open with this key or in this context."""

    code = "key-refused"
    sentence = "The key for this file does not fit. Sign out, sign in and try again."
    status = 403


# -- getting in -----------------------------------------------------------------------------------
class UploadRefused(PortalError):
    code = "upload-refused"
    sentence = "This upload cannot go on: {reason}."
    status = 400


class UploadConflict(PortalError):
    """tus 1.0: PATCH at an offset that is not the server's."""

    code = "upload-conflict"
    sentence = "The upload and the server disagree on where to go on. It resumes by itself."
    status = 409


class UploadTooLarge(PortalError):
    code = "upload-too-large"
    sentence = "This file is larger than this portal accepts."
    status = 413


class RecordFull(PortalError):
    code = "record-full"
    sentence = "Your record has no room left for this. Ask the operator for more room."
    status = 413


class StoreFull(PortalError):
    code = "store-full"
    sentence = "The portal's storage is full. Nothing that was stored before is lost. Its operator has been told."
    status = 507


class ArchiveRefused(PortalError):
    code = "archive-refused"
    sentence = "This archive was kept as it is but not unpacked: {reason}."
    status = 422


# -- machines -------------------------------------------------------------------------------------
class AllMachinesInUse(PortalError):
    code = "all-machines-in-use"
    sentence = "All machines are in use at the moment. Please try again in a few minutes."
    status = 503


class MachineFailed(PortalError):
    code = "machine-failed"
    sentence = "The machine did not start. Your data is safe. Please try again."
    status = 502


class HypervisorUnreachable(PortalError):
    code = "hypervisor-unreachable"
    sentence = "The machine room does not answer at the moment. Your data is safe. Please try again shortly."
    status = 503


class HypervisorRefused(PortalError):
    """Proxmox answered an error we did not expect; `detail` carries its text for the log."""

    code = "hypervisor-refused"
    sentence = "The machine room refused this step. Your data is safe. The operator finds the reason in the log."
    status = 502


class ViewerNotInstalled(HypervisorRefused):
    """No such viewer in the catalogue, or its template was never published."""

    code = "viewer-not-installed"
    sentence = "This viewer is not installed on this portal. Choose another one, or ask the operator to install it."
    status = 422


class SessionOver(PortalError):
    code = "session-over"
    sentence = "This session has ended and its machine was destroyed. Files you saved are in your record."
    status = 410


# -- sharing --------------------------------------------------------------------------------------
class ShareClosed(PortalError):
    """Expired, withdrawn or its session ended: the page says who to ask, not which of these."""

    code = "share-closed"
    sentence = "This link no longer opens anything. Ask the person who sent it to share again."
    status = 410


class PasscodeRefused(PortalError):
    code = "passcode-refused"
    sentence = "This passcode is not right. {remaining_attempts} tries are left."
    status = 403


class TicketRefused(PortalError):
    code = "ticket-refused"
    sentence = "The screen could not be connected. Reload the page."
    status = 403
