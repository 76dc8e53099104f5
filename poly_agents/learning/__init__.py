"""Training without ParlAI: gradients of large batches, losses of a teacher, hard negatives, the learning rate."""
