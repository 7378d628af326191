"""Answers to exercises, checked at once and without giving them away: ``pk.check``."""

from pkbook.lab.exercises.checking import Verdict, check, known

__all__ = ["Verdict", "check", "known"]
