"""Searches for the channels to keep: EDropout, and the methods that it is compared with."""
