"""What serving ASGI applications with hypercorn in our own nursery takes."""
