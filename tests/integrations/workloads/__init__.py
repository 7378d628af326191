"""Trainings as their authors write them, on real kinds of code; nothing of pkbook records them."""
