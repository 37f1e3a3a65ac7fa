"""One loaded model on one engine, behind the same four members for all engines."""
