"""Training and evaluation of the micro checkpoint. Not in the wheel."""
