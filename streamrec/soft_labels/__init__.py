"""Turn teachers' answers into soft labels: made once per example, before anyone learns from it.

Takes examples and teacher versions. Gives top-K logits per teacher with its version, and a mixture whose weights follow how well each
teacher predicts the newest unseen events; keeps examples, answers and mixtures for all students to learn from again.
"""
