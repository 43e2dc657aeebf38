"""A failing step in a folder, so that it can be run again elsewhere: tensors as safetensors, the rest as JSON."""
