"""The receiver: practices send pictures by DICOM C-STORE (PS3.4 annex B, PS3.7, PS3.8) to a drop-off's AE title.

Speaks as much of the protocol as an acceptor of objects needs; each fragment is sealed as it comes, none is kept in
memory or written in clear. Started by `python -m myphr.receiver`."""
