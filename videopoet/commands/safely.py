"""One line for a user's mistake instead of a traceback."""

import argparse
import sys


def run_safely(namespace: argparse.Namespace, rest: list[str]) -> None:
    """Call `namespace.run`. ValueError and OSError -> one line on stderr and exit code 2; Ctrl-C -> 130."""
    try:
        namespace.run(namespace, rest) if getattr(namespace, "passes_rest", False) else namespace.run(namespace)
    except (ValueError, OSError) as error:
        text = str(error).strip()
        if "Original Traceback" in text:  # a loading worker's error, passed on: its last line is the cause
            text = text.splitlines()[-1].removeprefix("ValueError: ")
        print(f"videopoet: error: {' '.join(text.split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("videopoet: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
