"""Turn ordered events into stable item rows, user histories and training examples.

Takes decoded event tables and the state left by earlier ones. Gives rows (vocabulary), examples (a history and the basket that followed
it) and components that the checkpoint can hold.
"""
