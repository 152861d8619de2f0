"""What a row is, and where rows lie. Knows bytes; knows no store."""
