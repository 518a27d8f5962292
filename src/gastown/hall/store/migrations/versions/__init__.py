"""The steps, one file for each revision. What has been released is not changed: a change is a new step."""
