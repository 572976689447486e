"""What people look at: overlays, figures and HTML pages."""
