"""Checks with a cause and a cure: preflight, doctor, status."""
