"""Rows to any table."""
