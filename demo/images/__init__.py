"""What the pages do with images: uploads, shrinking, and which pixels decided an answer."""
