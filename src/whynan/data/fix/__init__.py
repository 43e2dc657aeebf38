"""Repaired copies of annotation files: one file per format. Originals are never opened for writing."""
