"""Serving ASGI applications with hypercorn, in our own nursery."""
