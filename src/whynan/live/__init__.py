"""What a run shows while it goes on, and whom it tells when it has ended."""
