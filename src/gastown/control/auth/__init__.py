"""Access to the control port: tokens, scopes, tickets and origins."""
