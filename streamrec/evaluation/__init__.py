"""Score rankings against what users really did next.

Takes examples and rankings (scores, lists or ranks). Gives per-query metrics, baselines that need no model, and running progressive
(test-then-train) means.
"""
