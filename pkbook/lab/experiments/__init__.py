"""The experiments of the book, one file each: `Config`, `run(config)`, `draw(result)`."""
