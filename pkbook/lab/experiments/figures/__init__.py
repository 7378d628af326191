"""Figures of the experiments whose files would be too long with them."""
