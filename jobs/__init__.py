"""RQ functions, thin: ids in, one service call. The queue stores arguments in clear, so nothing else may enter."""
