"""Human evaluation: a page that shows two videos side by side, and what its answers say."""
