"""The steps from a source to a verified file, and from an existing file to a report."""
