"""Learn one small student continually: hard targets, soft labels, new examples and replayed ones.

Takes lessons: examples with soft labels. Gives progressive ranks before learning, step metrics, and snapshots that the registry publishes; only
`actor` knows Ray.
"""
