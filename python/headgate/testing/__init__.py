"""For tests, ours and yours: a feed that behaves like the providers, data with their quirks, conformance suites."""
