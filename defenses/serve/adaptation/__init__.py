"""Networks that adapt to what they are asked: test-time adaptation over a stream of batches."""
