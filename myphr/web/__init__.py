"""The portal's pages: Flask, HTMX, server-rendered. Holds no standing power to open items."""
