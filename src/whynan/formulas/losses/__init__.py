"""Losses whose value and gradient are finite for all finite arguments."""
