"""Examples that run: `make demo` plays them."""
