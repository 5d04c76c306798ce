"""Measure what streamrec promises, each figure with the command that gives it: ``python benchmarks/NAME.py [--quick]``.

In comes nothing but the checkout and the machine. Out go a few lines for people, the machine's facts, and one flat JSON object as the last line.
"""
