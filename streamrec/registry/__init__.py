"""Keep every published student as an immutable, digest-checked version, and say which one is live and why.

In come snapshots (arrays, meta and the facts of how they were made), the gate's windows of paired scores, and orders to promote, roll
back, pin or prune.
Out go verified weights, the one live version, and a history of decisions and moves that is never rewritten.
"""
