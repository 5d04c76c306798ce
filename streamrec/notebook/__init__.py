"""Give notebooks a dozen names: events, a backtest, one teacher, one student, answers, a picture.

Takes files or made-up worlds, and settings as the configuration has them. Gives results that a notebook shows; all of it runs in this process, by the
code of the stream, without Ray's actors and without a broker.
"""
