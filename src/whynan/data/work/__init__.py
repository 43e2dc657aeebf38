"""What a worker does with a unit of each kind."""
