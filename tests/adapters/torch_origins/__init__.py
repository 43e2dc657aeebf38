"""Small computations that go non-finite, each with the origin that the tracer and the slice must name."""
