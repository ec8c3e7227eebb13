"""DICOM over the network (PS3.7, PS3.8): what the receiver (acceptor) and the fetching from PACS (requestor) speak."""
