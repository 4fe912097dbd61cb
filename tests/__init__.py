"""Tests of citykit, against a real PostgreSQL."""
