"""Tell in one file how a run or a backtest went.

What a state keeps, or a backtest printed, comes in and is read into `facts.Report`; nothing is changed, and neither Ray nor a log is needed.
One HTML file that needs nothing beside it goes out, pictures first and numbers beside them, or the same as JSON.
"""
