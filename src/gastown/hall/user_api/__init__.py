"""The user API: what people, their scripts, the commands and the page ask of a town, and tell it."""
