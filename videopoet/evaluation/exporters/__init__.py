"""Samples written exactly as public benchmarks read them: names, counts, folders."""
