"""Turn bytes and files into validated events, and say what each event means for learning.

In come JSON records of the log, catalogues and interaction files in the formats in which users download them. Out go Arrow tables of
valid `Interaction`, `Impression`, `ItemUpdate` and `Deletion` rows, and rejected rows with their reason and original bytes.
"""
