"""Whether the record is what it was: verifying, and what an auditor is handed."""
