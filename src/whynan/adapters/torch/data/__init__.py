"""Where a batch came from: its dataset indices, its samples, and the line of the user's code that made a value bad."""
