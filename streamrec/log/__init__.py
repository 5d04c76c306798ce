"""Keep events in topics and partitions, and give them back by offset.

In come records to append and ranges of offsets to read, from Kafka, from files of this machine or from memory.
Out go tables and Ray Datasets of exactly the rows that were asked for, or an error that says which of them are not there.
"""
