"""The commands that ask a running town, or tell it something, over its hall's user API."""
