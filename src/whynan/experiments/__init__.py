"""Remedies are tried on the failing step: what a verdict is, what follows from it, and how a change becomes a patch.

No framework here; an adapter runs the attempts.
"""
