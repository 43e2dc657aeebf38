"""Checks, one file each: `whynan.data.finding.all_checks` finds them by file."""
