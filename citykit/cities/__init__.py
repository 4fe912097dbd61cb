"""The table of cities: its model, loading it, the questions to it, the world's cities."""
