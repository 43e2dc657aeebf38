"""How PyTorch's first steps are recorded, searched for witnesses and reviewed."""
