"""Define the networks and closed forms as pure tensor code: no Ray, no files, no clock.

Takes item rows as tensors. Gives logits and representations. Shapes: ``B`` batch, ``N`` history length, ``S`` sequence length, ``D``
dimension, ``V`` item rows, ``K`` labels an example.
"""
