"""Whole programs: what a user writes for one DANN training with each library."""
