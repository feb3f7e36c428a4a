"""What training minimises: (hidden, item table, targets) in, (sum, count) out, never a score of each item at once."""
