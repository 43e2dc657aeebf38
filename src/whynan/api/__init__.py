"""The Python interface: the same engine for those who edit their code."""
