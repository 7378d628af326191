"""Explorers that compute in the page: readable JavaScript, and how it gets there."""

from pkbook.lab.live.live import Live

__all__ = ["Live"]
