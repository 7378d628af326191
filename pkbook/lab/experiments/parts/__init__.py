"""Parts of experiments that a chapter shows by themselves, and that several experiments use."""
