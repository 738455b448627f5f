"""HTML, components and the frame that every page shares. Knows no model."""
