"""Whole runs on a user's path: ``python -m examples.digits_cnn`` and its neighbours."""
