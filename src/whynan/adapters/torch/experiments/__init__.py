"""Try remedies on a PyTorch step: one change each, the unchanged replay as control."""
