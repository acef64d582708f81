"""Removing from a host what Casemate owns, and only that: one module a part, in the order of playbooks/reset.yml."""
