"""Is this host fit for Casemate, and is it well: checks with evidence, cause and cure.

Everything here runs on Python's standard library, from a directory or from a zip, writes nothing, and parses on
Python 3.9 as well: preflight must be able to say "this distribution is too old" on a distribution that is too old.
"""
