"""The `assay` command, one module a group of commands."""
