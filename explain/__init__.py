"""Explanations: the votes behind a prediction, the routes of many, and whether explanations hold."""
