"""Data sets as Python objects: what a model will really get, after transforms. No framework is imported for it."""
