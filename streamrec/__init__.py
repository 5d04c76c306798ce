"""Recommend from live event streams with a small student that keeps learning from several large teachers while it serves."""

__version__ = "0.1.0"
