"""How the commands describe themselves: by the docstring of their module."""

import argparse


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m scripts.NAME`: the first words of its docstring above the options, the rest below."""
    summary, _, details = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
