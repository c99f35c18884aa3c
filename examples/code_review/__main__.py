"""What `make demo` starts."""

import sys

from examples.code_review import interrupts


def main() -> int:
    """Run the demo and return its exit code; an interruption has one from the first moment on."""
    interrupts.listen()
    try:
        from examples.code_review import demo

        return demo.main()
    except interrupts.Interrupted as stopped:
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
