"""Refresh the large teachers, warm from their last version, while the stream runs.

Takes windows of histories (transformer) or batches of examples (linear) and the previous version. Gives new teacher versions: immutable
arrays that scorers load; only `trainer` and `refresh` know Ray.
"""
