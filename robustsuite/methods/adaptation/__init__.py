"""What methods of test-time adaptation share: norm layers, losses, steps, views of a picture, a memory."""
