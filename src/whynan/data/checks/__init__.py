"""Checks, one file each: `whynan.data.check.all_checks` finds them by file."""
