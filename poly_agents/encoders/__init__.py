"""Tokens -> states: pretrained encoders, and running their layers one by one or without padding."""
