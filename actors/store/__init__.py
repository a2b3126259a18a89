"""What outlives the process: the ledger and the files kept beside it."""
