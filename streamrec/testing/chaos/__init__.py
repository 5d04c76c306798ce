"""Kill the real loop with SIGKILL wherever it can die, and compare what is left with a run that nothing disturbed.

In come a seed and a number of kills; broker, Ray nodes and the streaming process are started here, small and of their own.
Out go the kills by target, the failpoints that were hit, and every difference between the disturbed and the undisturbed state.
`make chaos` runs the long one; `tests/faults` runs a seeded selection.
"""
