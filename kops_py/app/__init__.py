"""Composition root: puts spec, connectors, journal and clock together for one command.

Nothing here prints or exits: results are returned, events are emitted, errors are raised.
"""
