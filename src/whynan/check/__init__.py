"""What could go non-finite in a step that has not failed yet: ranges over its graph, suspects, witnesses, a review."""
