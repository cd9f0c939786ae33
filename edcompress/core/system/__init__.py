"""Processes, devices, files, signals and hashes."""
