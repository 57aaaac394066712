"""HTML, Markdown and README pages."""
