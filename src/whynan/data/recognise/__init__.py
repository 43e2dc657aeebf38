"""What a folder holds: the formats in it, and which files belong together. Nothing but beginnings of files is read."""
