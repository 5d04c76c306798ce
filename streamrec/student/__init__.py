"""Learn one small student continually: hard targets, soft labels, replay.

Takes examples with soft labels. Gives progressive ranks before learning, step metrics, and snapshots that the registry publishes; only
`actor` knows Ray.
"""
