"""Embedded micro checkpoint of I2VGen-XL: weights, training and evaluation.

The daemon needs only `checkpoint/`. `training/` trains and evaluates it: it imports torch, no other
package imports it, and it is not in the wheel.
"""
