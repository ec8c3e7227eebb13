"""Every user-facing error: a stable code, a plain sentence, an HTTP status.

Raise at the point of knowledge; only `web/errors.py` and the gateways turn errors into replies.
Names, file names, tokens and keys never enter a message; ids may. `docs/errors.md` is generated from here.
"""


class PortalError(Exception):
    """Base of all errors a person may see. `code` never changes once released."""

    code = "internal"
    sentence = "Something went wrong on our side. Nothing you saved is lost. Please try again."
    sentence_of_one = ""  # in its place when all that is counted is one
    status = 500

    def __init__(self, detail: str = "", **facts: object) -> None:
        """`detail` is for the log, never for the page; `facts` (ids, counts, seconds) fill the sentence."""
        super().__init__(detail or self.code)
        self.detail = detail
        self.facts = facts

    @property
    def message(self) -> str:
        is_one = self.sentence_of_one and all(fact == 1 for fact in self.facts.values())
        sentence = self.sentence_of_one if self.facts and is_one else self.sentence
        return sentence.format(**self.facts) if self.facts else sentence


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
    sentence_of_one = "Too many tries. Please wait a second and try again."
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


class SignInRevoked(PortalError):
    """The person's identity was revoked by an operator: told only to who knows the password."""

    code = "sign-in-revoked"
    sentence = (
        "The operator of this portal has stopped this account, and nobody can sign in to it. Your files are kept,"
        " sealed as before. Write to the operator: they can give you a new identity, and the same password lets you in."
    )
    status = 403


class SignInUnconfirmed(PortalError):
    """The identity's keys do not open, or the CA knows this GID with another key: somebody changed the database."""

    code = "sign-in-unconfirmed"
    sentence = (
        "What the portal keeps about your identity does not fit together. Nothing in your record is lost. Write to the"
        " operator: they can give you a new identity, and the same password lets you in again."
    )
    status = 403


class SecondStepRequired(PortalError):
    """The password is right; a passkey or a code is still to come. `accounts.begin_sign_in` leads on from here."""

    code = "second-step-required"
    sentence = "Your password is right. This account also asks for a passkey or a code."
    status = 403


class SecondStepRefused(PortalError):
    code = "second-step-refused"
    sentence = "This did not work: {reason}."
    status = 403


class SecondStepOver(PortalError):
    """The five minutes between password and second step are over, or it was used already."""

    code = "second-step-over"
    sentence = "That took more than five minutes, or was done in another window. Please begin with your password again."
    status = 403


class AccountNeeded(PortalError):
    """Closing it would leave an organisation or the portal without anybody; fact `reason`: what to do first."""

    code = "account-needed"
    sentence = "Your account cannot be closed yet: {reason}."
    status = 409


class CertificateMissing(PortalError):
    """Nothing to prove oneself with: the keyholder was away at sign-in, or the person cancelled the certificate."""

    code = "certificate-missing"
    sentence = (
        "Sharing with people needs your certificate, and you have none at the moment. Get a new one on My account."
    )
    status = 409


class OperatorUnknown(PortalError):
    code = "operator-unknown"
    sentence = (
        "The keyholder does not know you as an operator yet. On the server, run: myphr operator <your e-mail address>."
    )
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


# -- sharing by attributes ------------------------------------------------------------------------
class PolicyError(PortalError):
    """A sharing rule in text or bytes that is not one; fact `reason`: what is wrong, without any name from it."""

    code = "policy-refused"
    sentence = "This sharing rule cannot be used: {reason}."
    status = 422

    def __init__(self, detail: str = "", *, reason: str = "it is not written as rules are") -> None:
        super().__init__(detail or reason, reason=reason)


class AbeError(PortalError):
    """Base of what goes wrong when a key is opened by attributes."""

    code = "share-refused"
    sentence = "What was shared here does not open with your keys. Ask the person who shared it to share it again."
    status = 403


class AbeMalformed(AbeError):
    """A header, key or public value that is not exactly what was made: cut, extended, flipped, or of another group."""

    code = "share-corrupt"
    sentence = "What was shared here was damaged and cannot be opened. Ask the person who shared it to share it again."
    status = 500


class AbeNotSatisfied(AbeError):
    """The keys at hand do not satisfy the policy."""

    code = "share-not-allowed"
    sentence = "This was shared with people in another role or without your being included. You cannot open it."


class AuthorityRefused(AbeError):
    """A public value without a valid proof that its owner knows the secret, or of another authority than named."""

    code = "authority-refused"
    sentence = "This organisation's keys could not be confirmed. Nothing was shared. Tell the operator of the portal."


class CurveUnavailable(AbeError):
    """The curve library is missing or failed its self-test: nothing may be shared or opened with it."""

    code = "sharing-unavailable"
    sentence = "Sharing by role is not possible at the moment. Your data is safe. Please try again later."
    status = 503


# -- getting in -----------------------------------------------------------------------------------
class UploadRefused(PortalError):
    code = "upload-refused"
    sentence = "This file could not be taken: {reason}."
    status = 400


class UploadConflict(PortalError):
    """tus 1.0: PATCH at an offset that is not the server's."""

    code = "upload-conflict"
    sentence = "The upload and the server disagree on where to go on. It resumes by itself."
    status = 409


class ChecksumMismatch(PortalError):
    """tus 1.0, checksum extension: what arrived is not what was sent; nothing of the piece was kept."""

    code = "upload-checksum"
    sentence = "A piece of this file was damaged on its way. Send it again."
    status = 460


class UploadTooLarge(PortalError):
    code = "upload-too-large"
    sentence = "This file is larger than this portal accepts."
    status = 413


class RecordFull(PortalError):
    code = "record-full"
    sentence = "Your record has no room left for this. Ask the operator for more room."
    status = 413


class DropOffClosed(PortalError):
    """One answer for a wrong, a revoked and an expired drop-off."""

    code = "drop-off-closed"
    sentence = "This address takes no files, or no longer. Ask the patient for a new one."
    status = 401


class CertificateWrong(PortalError):
    code = "certificate-wrong"
    sentence = "This proof of deletion does not fit: it was changed, or it is of another portal."
    status = 422


class AppKeyClosed(PortalError):
    """One answer for a wrong, a revoked and an expired app key."""

    code = "app-key-closed"
    sentence = "This key opens nothing, or no longer. Make a new one in your record."
    status = 401


class NotAcceptable(PortalError):
    """WADO-RS: pictures are given out as they are stored, never converted."""

    code = "not-acceptable"
    sentence = "The pictures are not here in the form that was asked for."
    status = 406


class DropOffLinkClosed(PortalError):
    """The right link, stopped or expired: the page says whom to ask, not which of these."""

    code = "drop-off-link-closed"
    sentence = "This link takes no files any more. Ask the person who sent it for a new one."
    status = 410


class DropOffFull(PortalError):
    code = "drop-off-full"
    sentence = "As many files have come this way as the patient agreed to. Ask the patient for a new address."
    status = 413


class HospitalRefused(PortalError):
    """A hospital's FHIR server, or what it answered. `detail` is one of `ingest.fhir.reasons.REASONS`."""

    code = "hospital-refused"
    sentence = "Your records could not be fetched: {reason}."
    status = 502


class PacsRefused(PortalError):
    """A practice's PACS, or what it answered. `detail` is one of `ingest.pacs.reasons.REASONS`."""

    code = "pacs-refused"
    sentence = "The images could not be fetched: {reason}."
    status = 502


class NotDicom(PortalError):
    code = "not-dicom"
    sentence = "This is not a DICOM file that says which study and image it is."
    status = 409


class OtherStudy(PortalError):
    """What was sent is not what it was announced as: another study, image or kind of image."""

    code = "other-study"
    sentence = "This file belongs to another study than it was sent for."
    status = 409


class TooManySenders(PortalError):
    code = "too-many-senders"
    sentence = "Too many files are being sent this way at once. Please try again in a moment."
    status = 503


class StoreFull(PortalError):
    code = "store-full"
    sentence = "The portal's storage is full. Nothing that was stored before is lost. Please tell who runs this portal."
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
    sentence_of_one = "This passcode is not right. One try is left: ask the person who shares for it."
    status = 403


class TicketRefused(PortalError):
    code = "ticket-refused"
    sentence = "The screen could not be connected. Reload the page."
    status = 403


# -- the keyholder ----------------------------------------------------------------------------------
class KeyholderUnavailable(PortalError):
    """The keyholder does not answer, or is too busy to."""

    code = "keyholder-unavailable"
    sentence = "Sharing is not possible at the moment, as the part that holds its keys does not answer. Try again soon."
    status = 503


class KeyholderFull(PortalError):
    """Its disk is full: nothing was changed."""

    code = "keyholder-full"
    sentence = "This could not be saved, because the portal's storage for keys is full. Nothing was changed."
    status = 507


class KeyholderProtocolError(PortalError):
    """A request or reply that is not of the protocol (docs/formats/keyholder.md), or arguments it does not take."""

    code = "keyholder-protocol"
    sentence = "The portal and the part that holds its keys do not understand each other. Please tell the operator."
    status = 502


class KeyholderConflict(PortalError):
    """What is to be made exists already and is something else, or is closed for good."""

    code = "keyholder-conflict"
    sentence = "This cannot be done, because it was already done in another way. Reload the page and look again."
    status = 409


class CertificateRefused(PortalError):
    """A certificate, request or statement that is not what it must be: form, signature, dates, revoked."""

    code = "certificate-refused"
    sentence = "Your certificate is not valid any more. Sign out and sign in again: that makes a new one."
    status = 403


class ProofRefused(PortalError):
    """The proof of who asks does not hold: signature, time, seen before, meant for another keyholder."""

    code = "proof-refused"
    sentence = "This could not be confirmed as coming from you. Reload the page and try once more."
    status = 403


class IdentityRevoked(PortalError):
    code = "identity-revoked"
    sentence = "This identity was revoked. It can no longer be used to share or to open what others share."
    status = 403


class AccessWithheld(PortalError):
    """The vault does not release its half to this person now: blocked, not let in by the rule, or destroyed."""

    code = "access-withheld"
    sentence = "This is not open to you, or no longer. Ask the person whose record it is."
    status = 403


class ReasonRequired(PortalError):
    """Break-glass: no window is open for this person, and no reason was given."""

    code = "reason-required"
    sentence = "In an emergency you can open this after writing down why. The person whose record it is will be told."
    status = 403
