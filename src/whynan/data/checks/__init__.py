"""Checks, one file each: `whynan.data.catalogue.all_checks` finds them by file."""
