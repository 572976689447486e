"""Plumbing: command line, files, processes, devices, plots. Nothing in here knows what a vote is."""
