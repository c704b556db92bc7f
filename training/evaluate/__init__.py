"""Measures what the models reach and draws it; one question a file."""
