"""Move the stream: plan, read, evaluate, label, learn, gate, publish, checkpoint, one micro-batch at a time.

Takes a configuration, a log and workers that hold the student and the teachers. Gives step reports, promoted versions and checkpoints
from which a killed run goes on with the same bits.
"""
