"""Reports as text, HTML, Markdown, SVG and CI formats."""
