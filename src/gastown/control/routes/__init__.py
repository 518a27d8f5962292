"""The routes of the control API, one file a resource."""
