"""The embedded micro checkpoint of I2VGen-XL: its weights, its training, its measurement.

`checkpoint/` is all that the daemon needs. `training/` is the code that made it and measures it: it
imports torch, nothing outside it imports it, and it is not in the wheel.
"""
