"""The embedded micro checkpoint of I2VGen-XL: its weights, its training, its measurement.

`checkpoint/` is all that the daemon needs. The modules beside it are training code: they import
torch, and nothing outside this folder imports them.
"""
