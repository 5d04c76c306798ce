"""Test rooms of one's own against the promises of streamrec's seams, and make the world fail on purpose.

In come implementations (a log, a storage, a model) and seeds.
Out go test results, injected clocks and faults, and toy worlds whose right answers are known.
"""
