"""What attacks at test time share: their loops, searches and losses, one method a file."""
