"""Schemas of measured values, reports and verdicts."""
