"""Adapters behind the ports. Heavy imports stay inside the functions that need them."""
