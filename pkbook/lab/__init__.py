"""What the book needs and a user of the library does not: figures, explorers, experiments."""
