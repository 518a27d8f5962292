"""The documentation site: pages from docs/, and reference pages made from the code. `make docs` builds it."""
