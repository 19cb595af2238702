"""Masked language modelling for BERT-family encoders, from your own text."""

__version__ = "0.1.0"
