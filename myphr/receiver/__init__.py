"""The receiver: practices send pictures by DICOM C-STORE (PS3.4 annex B, PS3.7, PS3.8) to a drop-off's AE title.

pynetdicom speaks the protocol. What of it would keep an object in memory, or write it in clear below $TMPDIR, is
replaced here: each fragment is sealed as it comes. Started by `python -m myphr.receiver`."""
