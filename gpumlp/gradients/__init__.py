"""Gradients to look at: explained for one sample, checked by differences, measured every epoch."""
