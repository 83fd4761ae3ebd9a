"""What single examples of a run say: pictures, classes, confidence."""
