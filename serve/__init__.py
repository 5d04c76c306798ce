"""Run `streamrec.serving` as one Ray Serve deployment behind HAProxy.

In come a configuration, the address of the event log and the address of the state; each replica long-polls the board for promoted versions
and follows the log for histories. Out go HTTP answers: recommendations, accepted events, model facts, health and readiness.
"""
