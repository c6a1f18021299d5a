"""Where the parts become programs: the one place that picks concrete classes.

A module for each program, so that a site's client loads no database and no web server.
"""
