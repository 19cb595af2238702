"""Forecasts of an adaptation from short probing runs."""
