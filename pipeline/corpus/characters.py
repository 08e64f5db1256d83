"""Classes of characters that the patterns of filters share.

In: nothing. Out: what stands between the brackets of a regular expression's class. What always holds: each can stand
beside others in one class; `DASHES` ends it, its last character being the hyphen.

Example:
    re.compile(f"[{WORD}.{DASHES}]+")
"""

SPACES = " \u00a0\u2009\u202f"
"""Those that may stand inside a number: the space, those that don't break a line, the thin one."""

DASHES = "\u2010-\u2013-"
"""Hyphens to the en dash."""

WORD = r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f\d"
"""Letters of Latin, Greek and Cyrillic, and digits: what continues a word, an address or a number that it adjoins.
Letters of other scripts don't: Chinese stands right beside a telephone number, a Korean ending behind an address."""
