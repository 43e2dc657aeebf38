"""Why the origin misbehaved, and what would help: one file for each cause and each remedy, and the engine that asks."""
