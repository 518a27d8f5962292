"""The control API on Quart-Trio: parse the request, make one call, answer with a wire model."""
