"""One file per format: bytes to plain facts, which a cache may keep, and facts to tables that checks look at."""
