"""Say what happens: numbers under names that one table holds, log lines as JSON, traces of versions.

Takes counts and times from whoever does the work. Gives plain numbers that travel, Prometheus' text of all processes' together, and spans to an
OTLP receiver.
"""
