"""Backups of a host: what is in one, making it with restic, and bringing it back."""
