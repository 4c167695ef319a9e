"""The embedded demonstration model: a tiny I2VGen-XL in `checkpoint/`, and how it was trained."""
