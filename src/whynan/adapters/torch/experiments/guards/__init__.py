"""Guarded forms of single operations, as the user would write them at the origin's line.

A guard takes a call and returns its guarded result, or `None` where it has nothing to guard in this call. One file for
each remedy that guards operations; each maps names of torch functions to guards.
"""
