"""Explanations of predictions by the votes behind them."""
