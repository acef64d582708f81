"""Casemate: one Linux machine as a secure-container appliance."""

__version__ = "0.1.0"
