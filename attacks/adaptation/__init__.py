"""What is in a batch of a system that adapts: (view, batch, which of it is the adversary's) -> the batch, moved."""
