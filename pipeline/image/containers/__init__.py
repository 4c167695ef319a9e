"""Containers: the layout of each format's files, as far as decoders do not show it."""
