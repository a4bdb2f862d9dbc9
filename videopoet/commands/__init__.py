"""The sub-commands of `videopoet`: each module has `add(parsers)`, and its functions can be called from scripts."""
