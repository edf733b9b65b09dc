"""Files, folders, locks and processes: what the rest of the package asks of the machine."""
