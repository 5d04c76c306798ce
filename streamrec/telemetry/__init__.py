"""Count what happens, in each process by itself, under names that one table holds.

Takes counts and times from whoever does the work. Gives plain numbers that travel, and Prometheus' text of all processes' together.
"""
