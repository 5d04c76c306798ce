"""Answer "what next for this user?" from one model version and the user's live history, in numpy and without Ray.

In come versions (arrays, meta and a manifest, from the registry or the board), the event log (through a `LogTail`) and parsed requests.
Out go ranked items with the version that ranked them, its age, and the source of the answer.
"""
