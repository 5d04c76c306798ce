"""Hold the contract of each seam as a test class.

In comes an implementation, from the fixture of a three-line subclass.
Out go pytest results, one sentence of the contract per test.
"""
