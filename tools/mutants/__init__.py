"""Small changes to the code, drawn at random, and the tests that should notice them."""
