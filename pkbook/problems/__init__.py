"""What the chapters train: data, networks, losses (arXiv 2603.13872, Section 5)."""
